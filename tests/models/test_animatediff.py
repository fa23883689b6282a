"""AnimateDiff in its published layouts: found, loaded, equal to the stock pipeline; and what is refused, by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DEISMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    MotionAdapter,
    PNDMScheduler,
    SparseControlNetModel,
    UNet2DConditionModel,
    UNetMotionModel,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file, save_file

from tests.models.test_published import FRAMES, latents_of, load, whole_window
from tests.support.animatediff import save_adapter, save_stable_diffusion, stock_pipeline
from vinf_core.diffusion.noise import frame_noise
from vinf_core.errors import ModelFilesError, ModelNotFoundError
from vinf_core.models.catalogue import catalogue
from vinf_core.models.locate import ModelSource, locate
from vinf_core.types import Solver

pytestmark = pytest.mark.fast

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stable-diffusion")
    save_stable_diffusion(folder)
    return folder


@pytest.fixture(scope="module")
def v2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("v1-5-2")
    save_adapter(folder)
    return folder


@pytest.fixture(scope="module")
def v3(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("v1-5-3")
    save_adapter(folder, use_motion_mid_block=False)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, v2: Path, base: Path) -> Path:
    """Both as one pipeline, saved by diffusers."""
    folder = tmp_path_factory.mktemp("whole")
    stock_pipeline(v2, base).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("version", ["v2", "v3", "whole"])
def test_it_equals_the_stock_pipeline(version: str, base: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(version)
    model = load(folder) if version == "whole" else load(folder, base)
    assert model.limits.name == ("animatediff-v3" if version == "v3" else "animatediff-v2")
    wanted = whole_window()
    got = latents_of(model, wanted)
    pipeline = stock_pipeline(request.getfixturevalue("v2") if version == "whole" else folder, base)
    expected = pipeline(
        wanted.prompt,
        negative_prompt=wanted.negative_prompt,
        num_frames=FRAMES,
        width=wanted.width,
        height=wanted.height,
        num_inference_steps=wanted.step_count,
        guidance_scale=wanted.guidance_scale,
        latents=frame_noise(wanted.seed, range(FRAMES), got.shape[1:]).transpose(0, 1)[None],
        output_type="latent",
        return_dict=False,
    )[0]
    assert torch.allclose(got, expected[0].transpose(0, 1), atol=1e-4, rtol=1e-4)


def test_the_schedule_is_the_one_of_the_motion_modules(v2: Path, base: Path, whole: Path) -> None:
    for model in (load(v2, base), load(whole)):
        config = model.scheduler_config
        assert (config["beta_schedule"], config["beta_start"], config["beta_end"]) == ("linear", 0.00085, 0.012)
        assert (config["clip_sample"], config["steps_offset"]) == (False, 1)


def test_a_long_video_needs_no_more_positions_than_were_trained(v3: Path, base: Path) -> None:
    model = load(v3, base)
    assert model.temporal_sites.position_count == 16
    long = whole_window(frame_count=40, step_count=1, scope=model.limits.default_scope)
    assert latents_of(model, long).isfinite().all()


def test_published_sizes() -> None:
    """Stable Diffusion 1.5 and both adapters at full size, without memory for their weights."""
    cards = catalogue()
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        assert sum(parameter.numel() for parameter in unet.parameters()) == 859_520_964
        # The files on the hub (guoyww/animatediff-motion-adapter-v1-5-2 and -v1-5-3) have 1.82 and 1.67 GB.
        for name, has_mid_block, count, published in (
            ("animatediff-v2", True, 453_209_280, 1.82),
            ("animatediff-v3", False, 417_137_600, 1.67),
        ):
            adapter = MotionAdapter(use_motion_mid_block=has_mid_block)
            assert sum(parameter.numel() for parameter in adapter.parameters()) == count
            tensors = adapter.state_dict().values()  # positions among them
            assert round(sum(tensor.nbytes for tensor in tensors) / 1e9, 2) == published
            denoiser = UNetMotionModel.from_unet2d(unet, adapter, load_weights=False)
            total = sum(parameter.numel() for parameter in denoiser.parameters())
            assert total == cards[name].parameter_count == 859_520_964 + count


def test_adapters_of_the_first_version(tmp_path: Path, base: Path) -> None:
    save_adapter(tmp_path, use_motion_mid_block=False, motion_max_seq_length=20)
    assert latents_of(load(tmp_path, base), whole_window(step_count=1)).isfinite().all()


def test_what_is_not_here_is_named_with_both_downloads(v2: Path) -> None:
    for source in (ModelSource(model="animatediff-v2", offline=True), ModelSource(model=str(v2), offline=True)):
        with pytest.raises(ModelNotFoundError) as caught:
            locate(source)
        assert "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --include" in str(caught.value)
    with pytest.raises(ModelNotFoundError, match="hf download guoyww/animatediff-motion-adapter-v1-5-2 && hf"):
        locate(ModelSource(model="animatediff-v2", offline=True))


def change(folder: Path, name: str = "config.json", /, **values: object) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"conv_in_channels": 9}, r"conv_in_channels: 9; adapters that take pictures are not supported"),
        ({"block_out_channels": [320, 640, 1280]}, r"block_out_channels: .*; Stable Diffusion XL is not supported"),
        ({"block_out_channels": [8, 32]}, r"block_out_channels: \(8, 32\); .*unet wants \(8, 16\)"),
        ({"motion_norm_num_groups": 2}, r"motion_norm_num_groups: 2; .*unet wants 4"),
        ({"motion_max_seq_length": 8}, r"motion_max_seq_length: 8; wanted at least 16"),
        ({"motion_layers_per_block": 2}, r"does not fit MotionAdapter: .*missing keys"),
        ({"_class_name": "MotionAdapterXL"}, r"fits none of"),
    ],
)
def test_adapters_that_are_refused(values: dict[str, object], words: str, v2: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(v2, tmp_path / "adapter"))
    change(folder, **values)
    with pytest.raises(ModelNotFoundError, match=words) as caught:
        load(folder, base)
    assert str(folder) in str(caught.value)


def test_what_is_off_may_be_null(v2: Path, base: Path, tmp_path: Path) -> None:
    """As diffusers' converter of single files writes it."""
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    change(folder / "unet", upcast_attention=None, dual_cross_attention=None)
    wanted = whole_window(step_count=1)
    assert torch.equal(latents_of(load(v2, folder), wanted), latents_of(load(v2, base), wanted))


@pytest.mark.parametrize("kind", [DEISMultistepScheduler, EulerAncestralDiscreteScheduler, UniPCMultistepScheduler])
def test_bases_with_another_scheduler(kind: Any, v2: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    schedule = PNDMScheduler.load_config(base / "scheduler")
    kind(
        **{name: schedule[name] for name in ("beta_start", "beta_end", "beta_schedule", "timestep_spacing")}
    ).save_pretrained(folder / "scheduler")
    wanted = whole_window(step_count=2, solver=Solver.DPM_SOLVER_PP_2M)
    assert torch.equal(latents_of(load(v2, folder), wanted), latents_of(load(v2, base), wanted))


def test_bases_whose_scheduler_only_names_its_class(v2: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    change(folder / "scheduler", "scheduler_config.json", _class_name="LMSDiscreteScheduler")
    assert load(v2, folder).scheduler_config["beta_end"] == 0.012
    for name in ("EDMEulerScheduler", "LCMScheduler"):
        change(folder / "scheduler", "scheduler_config.json", _class_name=name)
        with pytest.raises(ModelFilesError, match=f"scheduler_config.json is of class {name}, wanted DDIM"):
            load(v2, folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"addition_embed_type": "text_time"}, "that is Stable Diffusion XL, which is not supported"),
        ({"encoder_hid_dim_type": "ip_image_proj"}, "pictures as prompts are not supported"),
        ({"in_channels": 9}, "denoisers that take more than noise are not supported"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos: False; motion modules go with True only"),
        ({"upcast_attention": True}, "upcast_attention: True; motion modules go with False only"),
        ({"_class_name": "UNet3DConditionModel"}, "is of class UNet3DConditionModel, wanted UNet2DConditionModel"),
    ],
)
def test_bases_that_are_refused(values: dict[str, object], words: str, v2: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    change(folder / "unet", **values)
    with pytest.raises(ModelFilesError, match=words) as caught:
        load(v2, folder)
    assert str(folder / "unet" / "config.json") in str(caught.value)


def test_an_adapter_for_another_number_of_layers(base: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, motion_layers_per_block=2)
    with pytest.raises(ModelFilesError, match=r"does not fit .*unet: .*layers per block"):
        load(tmp_path, base)


def test_a_base_without_its_parts(v2: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=f"the folder {tmp_path / 'unet'} is missing"):
        load(v2, tmp_path)
    shutil.copytree(base / "unet", tmp_path / "unet")
    with pytest.raises(ModelFilesError, match=f"the folder {tmp_path / 'vae'} is missing"):
        load(v2, tmp_path)


def test_weights_of_another_shape(v2: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(v2, tmp_path / "adapter"))
    name = "down_blocks.0.motion_modules.0.proj_in.weight"
    save_file(load_file(folder / WEIGHTS) | {name: torch.zeros(4, 4)}, folder / WEIGHTS)
    with pytest.raises(ModelFilesError, match=name):
        load(folder, base)


def test_a_whole_pipeline_of_another_kind(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "whole"))
    change(folder / "unet", addition_embed_type="text_time")
    with pytest.raises(ModelFilesError, match="that is Stable Diffusion XL"):
        load(folder)


def test_what_only_adds_to_an_adapter(v2: Path, base: Path, tmp_path: Path) -> None:
    """Motion LoRAs are published as weights alone, SparseCtrl as a model of its own."""
    lora, sparse = tmp_path / "lora", tmp_path / "sparse"
    lora.mkdir()
    shutil.copy(v2 / WEIGHTS, lora / WEIGHTS)
    with pytest.raises(ModelNotFoundError, match="a LoRA alone is no model"):
        load(lora, base)
    sparse.mkdir()
    (sparse / "config.json").write_text(json.dumps({"_class_name": SparseControlNetModel.__name__}))
    with pytest.raises(ModelNotFoundError, match=r"\(SparseControlNetModel\) fits none of"):
        load(sparse, base)
