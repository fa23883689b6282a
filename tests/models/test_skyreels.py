"""SkyReels-V1 in its published layout: found, loaded, equal to the stock pipelines; its options; what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_skyreels_image2video as stock_i2v
from PIL import Image

from tests.support.engine import Recorder, spec
from tests.support.skyreels import POOLED_DIM, TEXT_DIM, Saved, final_latents, save_hunyuan, save_skyreels
from vinf_core.diffusion.noise import frame_noise
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.engine.limits import check_spec
from vinf_core.errors import ConfigError, InvalidSpecError, ModelFilesError, ModelNotFoundError
from vinf_core.events import StageClock
from vinf_core.latent_frames import FrameGrid
from vinf_core.models import weights
from vinf_core.models.catalogue import catalogue
from vinf_core.models.hunyuan_text import HunyuanText
from vinf_core.models.hunyuan_vae import HunyuanDecoder
from vinf_core.models.loading import load_llama_tokenizer
from vinf_core.models.locate import ModelSource, locate
from vinf_core.models.skyreels import BLOCKS, PROMPT_PREFIX, SkyReelsModel
from vinf_core.types import GenerationSpec, ImageCondition, Solver, TemporalScope

pytestmark = pytest.mark.fast

FRAMES = 17
SIZE = 64
PROMPT = "a red ball over the sea"
NEGATIVE = "blurred, dark"
GRID = FrameGrid(4)
ALONE = (Topology.single(), Groups(control=None, data=None))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hunyuan")
    save_hunyuan(folder)
    return folder


@pytest.fixture(scope="module")
def t2v(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("t2v")
    save_skyreels(folder)
    return folder


@pytest.fixture(scope="module")
def i2v(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("i2v")
    save_skyreels(folder, takes_image=True)
    return folder


def load(folder: Path, base: Path, **options: str) -> SkyReelsModel:
    return Saved(folder, base, options=options).load()


def wanted(**changes: Any) -> GenerationSpec:
    values = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "frame_count": FRAMES,
        "width": SIZE,
        "height": SIZE,
        "scope": TemporalScope(local_window_frames=2 * FRAMES, global_frames=0),
        "solver": Solver.FLOW_EULER,
        "step_count": 3,
        "guidance_scale": 6.0,
    }
    return spec(**values | changes)


def image(seed: int = 5) -> ImageCondition:
    pixels = torch.randint(256, (SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return ImageCondition(0, pixels.numpy().tobytes())


def latents_of(folder: Path, base: Path, what: GenerationSpec, **options: str) -> torch.Tensor:
    """Final latents of the whole video on one rank, ``[latent frames, C, h, w]``."""
    return final_latents(*ALONE, Saved(folder, base, options=options), what, [what.frame_count])[0]


def pictures_of(decoder: HunyuanDecoder, latents: torch.Tensor) -> torch.Tensor:
    """Decoded chunk by chunk, ``[F, H, W, 3]``."""
    grid, count = decoder.grid, len(latents)
    pictures, carried = [], None
    for start in range(0, count, grid.latents):
        chunk = range(start, min(start + grid.latents, count))
        seen = range(max(0, start - grid.before), min(chunk.stop + grid.after, count))
        made, left = decoder.decode_chunk(latents[seen.start : seen.stop], chunk=chunk, seen=seen, carried=None)
        if carried is not None:
            made = decoder.blend(made, carried)
        assert len(made) == len(GRID.frames_of(chunk))
        pictures.append(made)
        carried = left
    return torch.cat(pictures)


def stock_pipeline(kind: Any, folder: Path, base: Path) -> Any:
    pipeline = kind.from_pretrained(
        base,
        transformer=HunyuanVideoTransformer3DModel.from_pretrained(folder, local_files_only=True),
        # transformers' own class for Llamas reads this file another way than the third Llama's authors wrote it.
        tokenizer=load_llama_tokenizer(base / "tokenizer"),
        local_files_only=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock(pipeline: Any, what: GenerationSpec, output: str, **more: Any) -> torch.Tensor:
    count = GRID.latent_count(what.frame_count)
    noise = frame_noise(what.seed, range(count), (16, SIZE // 8, SIZE // 8))
    made: torch.Tensor = pipeline(
        prompt=PROMPT_PREFIX + what.prompt,
        negative_prompt=what.negative_prompt,
        num_frames=what.frame_count,
        width=what.width,
        height=what.height,
        num_inference_steps=what.step_count,
        true_cfg_scale=what.guidance_scale,
        guidance_scale=1.0,
        latents=noise.transpose(0, 1)[None],
        output_type=output,
        return_dict=False,
        **more,
    )[0]
    return made[0]


def test_text_to_video_equals_the_stock_pipeline(t2v: Path, base: Path) -> None:
    model, what = load(t2v, base), wanted()
    assert model.limits.name == "skyreels-v1-t2v"
    pipeline = stock_pipeline(HunyuanVideoPipeline, t2v, base)
    got = latents_of(t2v, base, what)
    assert torch.allclose(got, stock(pipeline, what, "latent").transpose(0, 1), atol=1e-4, rtol=1e-4)
    pictures = pictures_of(model.temporal_decoder, got).clamp(0, 1)
    assert torch.allclose(pictures, stock(pipeline, what, "pt").permute(0, 2, 3, 1), atol=1e-4)
    assert not torch.allclose(got, latents_of(t2v, base, replace(what, prompt="a ship")), atol=1e-3)


def test_image_to_video_equals_the_stock_pipeline(i2v: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, what = load(i2v, base), wanted(images=(image(),))
    assert model.limits.name == "skyreels-v1-i2v"
    drawn = stock_i2v.retrieve_latents
    monkeypatch.setattr(stock_i2v, "retrieve_latents", lambda encoded, _: drawn(encoded, sample_mode="argmax"))
    pipeline = stock_pipeline(HunyuanSkyreelsImageToVideoPipeline, i2v, base)
    picture = Image.frombytes("RGB", (SIZE, SIZE), what.images[0].pixels)
    got = latents_of(i2v, base, what)
    expected = stock(pipeline, what, "latent", image=picture)
    assert torch.allclose(got, expected.transpose(0, 1), atol=1e-4, rtol=1e-4)
    pictures = pictures_of(model.temporal_decoder, got).clamp(0, 1)
    assert torch.allclose(pictures, stock(pipeline, what, "pt", image=picture).permute(0, 2, 3, 1), atol=1e-4)
    other = latents_of(i2v, base, replace(what, images=(image(6),)))
    assert not torch.allclose(got, other, atol=1e-3), "the image counts"


def test_an_image_is_encoded_once_and_only_where_frame_0_is(i2v: Path, base: Path) -> None:
    model = load(i2v, base)
    what = wanted(images=(image(),))
    for latent_frames in (range(5), range(2), range(3, 5)):
        model.begin(what, latent_frames)
    cache = model.image_cache
    assert (cache.miss_count, cache.hit_count) == (1, 0), "windows of one generation ask no more"
    model.begin(wanted(images=(image(),)), range(5))
    assert (cache.miss_count, cache.hit_count) == (1, 1), "the next generation finds it"
    model.begin(replace(what, images=(image(6),)), range(1))
    assert model.image_cache.miss_count == 2


def test_the_host_waits_in_the_first_step_alone(i2v: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tokens of each text and the rotary table; the image goes with its generation."""
    counted: list[torch.Tensor] = []
    tolist = torch.Tensor.tolist

    def told(self: torch.Tensor) -> Any:
        counted.extend([self] * (self.dtype == torch.int))
        return tolist(self)

    monkeypatch.setattr(torch.Tensor, "tolist", told)
    model = load(i2v, base)
    topology, clock, sink = Topology.single(), StageClock(torch.device("cpu")), Recorder()
    engine = Generator(model, topology, Exchange(topology, None, clock), clock)
    tables: list[int] = []
    next(model.unet.rope.children()).register_forward_hook(lambda *_: tables.append(1))
    generate = partial(
        engine.generate, "g", observer=sink, open_sink=lambda _: sink, agree=ControlPlane(topology, None).agree
    )
    for texts in (1, 2):
        counted.clear()
        generate(wanted(images=(image(),), step_count=4), texts_at_once=texts)
        assert len(counted) == 3 - texts, "a generation's text lies in one place"
    assert len(tables) == 1
    assert model._image_latents is None
    engine.probe(4)


def test_an_image_is_wanted(i2v: Path, base: Path) -> None:
    model = load(i2v, base)
    with pytest.raises(InvalidSpecError, match=r"images: a count of 0 is not in \[1, 1\]"):
        check_spec(wanted(), model.limits)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13])
def test_chunks_are_the_stock_tiles(base: Path, count: int) -> None:
    """At every length: shorter than a tile, with a last tile of one, two or three latent frames."""
    vae = AutoencoderKLHunyuanVideo.from_pretrained(base / "vae", local_files_only=True).eval()
    latents = torch.randn(count, 16, 4, 4, generator=torch.Generator().manual_seed(count))
    with torch.inference_mode():
        expected = vae.decode((latents / vae.config.scaling_factor).transpose(0, 1)[None]).sample[0]
    got = pictures_of(HunyuanDecoder(vae), latents)
    assert torch.allclose(got, expected.permute(1, 2, 3, 0) * 0.5 + 0.5, atol=1e-5)


def test_pictures_in_tiles_are_the_stock_ones(base: Path) -> None:
    vae = AutoencoderKLHunyuanVideo.from_pretrained(base / "vae", local_files_only=True).eval()
    latents = torch.randn(6, 16, 6, 8, generator=torch.Generator().manual_seed(1))
    plain = pictures_of(HunyuanDecoder(vae), latents)
    vae.enable_tiling(
        tile_sample_min_height=32, tile_sample_min_width=32, tile_sample_stride_height=24, tile_sample_stride_width=24
    )
    tiled = pictures_of(HunyuanDecoder(vae), latents)
    vae.use_framewise_decoding = True
    with torch.inference_mode():
        expected = vae.decode((latents / vae.config.scaling_factor).transpose(0, 1)[None]).sample[0]
    assert torch.allclose(tiled, expected.permute(1, 2, 3, 0) * 0.5 + 0.5, atol=1e-5)
    assert not torch.allclose(tiled, plain, atol=1e-3), "tiling is no identity: group norms see a tile"


def test_tiling_is_an_option(t2v: Path, base: Path) -> None:
    for value, expected in (("on", True), ("off", False)):
        assert load(t2v, base, **{"vae-tiling": value}).temporal_decoder._vae.use_tiling is expected


def test_a_text_comes_back_as_it_was_packed() -> None:
    for dim in (24, 256, 4096):
        generator = torch.Generator().manual_seed(1)
        states, pooled = torch.randn(2, 256, dim, generator=generator), torch.randn(2, 768, generator=generator)
        text = HunyuanText(states, (torch.arange(256) < torch.tensor([[7], [256]])).float(), pooled)
        packed = text.pack()
        assert packed.shape == (2, 256 + -(-256 // dim) + -(-768 // dim), dim)
        back = HunyuanText.unpack(packed, 768)
        for name in ("states", "mask", "pooled"):
            assert torch.equal(getattr(back, name), getattr(text, name))


def test_text_encoders_are_loaded_with_the_first_text(t2v: Path, base: Path) -> None:
    model = load(t2v, base)
    encoder = model.text_encoder
    assert not encoder.is_loaded
    both = model.encode_text([PROMPT, NEGATIVE])
    assert encoder.is_loaded
    assert torch.equal(both, torch.cat([model.encode_text([NEGATIVE, PROMPT])[i : i + 1] for i in (1, 0)]))
    # Behind the instruction a text has its own tokens, and those of an empty one are fewer.
    masks = HunyuanText.unpack(torch.cat([both, model.encode_text([""])]), POOLED_DIM).mask.sum(1)
    assert masks[0] > masks[1] > masks[2] > 0


def test_prompts_are_cut_into_the_words_of_the_file(base: Path) -> None:
    tokenizer = load_llama_tokenizer(base / "tokenizer")
    text = "FPS-24, a red ball\n"
    tokens = tokenizer(text).input_ids
    assert tokens[0] == tokenizer.bos_token_id
    assert tokenizer.decode(tokens[1:]) == text
    assert tokenizer.padding_side == "right"


@pytest.mark.parametrize("options", [{"weights": "fp8"}, {"weights": "fp8", "offload": "blocks"}], ids=["fp8", "both"])
def test_8_bits_are_close(options: dict[str, str], t2v: Path, base: Path) -> None:
    """e4m3 keeps 3 bits: a weight is off by 1/16 at most, and the errors of many average out."""
    what = wanted()
    expected, got = latents_of(t2v, base, what), latents_of(t2v, base, what, **options)
    error = float((got - expected).norm() / expected.norm())
    assert 0 < error < 0.05, f"relative L2 error {error:.1e}"


def test_half_precision_is_close(t2v: Path, base: Path) -> None:
    """As it is served on a GPU; the loop's own state stays in float32."""
    what = wanted()
    expected = latents_of(t2v, base, what)
    for options in ({}, {"weights": "fp8", "offload": "blocks"}):
        saved = Saved(t2v, base, torch.bfloat16, options)
        got, _ = final_latents(*ALONE, saved, what, [what.frame_count])
        assert got.dtype == torch.float32
        error = float((got - expected).norm() / expected.norm())
        assert error < 0.05, f"{options}: relative L2 error {error:.1e}"


def test_8_bits_are_for_the_linear_layers_of_the_blocks(t2v: Path, base: Path) -> None:
    from torchao.quantization import Float8Tensor

    model = load(t2v, base, weights="fp8")
    kept = {name for name, value in model.unet.named_parameters() if isinstance(value, Float8Tensor)}
    linear = {name for name, module in model.unet.named_modules() if isinstance(module, torch.nn.Linear)}
    wanted = {f"{name}.weight" for name in linear if name.startswith(BLOCKS) and "norm" not in name}
    assert kept == wanted
    assert {"transformer_blocks.0.attn.to_q.weight", "single_transformer_blocks.1.proj_out.weight"} <= kept
    assert all(name.partition(".")[0] in BLOCKS for name in kept), "no embedder, nor the last layers"
    model.encode_text([PROMPT])
    llama = model.text_encoder._pipeline.text_encoder
    assert isinstance(llama.layers[0].self_attn.q_proj.weight, Float8Tensor)
    assert not isinstance(llama.embed_tokens.weight, Float8Tensor)


def test_a_missing_package_is_named(t2v: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(ConfigError, match=r"weights=fp8 needs torchao: pip install 'vinf\[fp8\]'"):
        load(t2v, base, weights="fp8")


def test_offloading_changes_no_bit(t2v: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    original: Callable[..., None] = weights.apply_group_offloading
    monkeypatch.setattr(
        weights, "apply_group_offloading", lambda module, **more: (asked.update(more), original(module, **more))
    )
    what = wanted()
    assert torch.equal(latents_of(t2v, base, what, offload="blocks"), latents_of(t2v, base, what))
    model = load(t2v, base, offload="blocks")
    assert (asked["offload_type"], asked["num_blocks_per_group"]) == ("block_level", 1)
    assert not asked["use_stream"], "there are no streams on a CPU"
    for name in BLOCKS:
        for block in model.unet.get_submodule(name):
            assert "group_offloading" in block._diffusers_hook.hooks


def test_published_sizes() -> None:
    """The transformer, the VAE and both text encoders at full size, without memory for their weights."""
    cards = catalogue()
    with torch.device("meta"):
        for name, channels, count in (("skyreels-v1-t2v", 16, 12_821_012_544), ("skyreels-v1-i2v", 32, 12_821_209_152)):
            transformer = HunyuanVideoTransformer3DModel(in_channels=channels)
            assert sum(parameter.numel() for parameter in transformer.parameters()) == count
            assert cards[name].parameter_count == count
            # The published files have 25.6 GB.
            assert round(2 * count / 1e9, 1) == 25.6
        vae = AutoencoderKLHunyuanVideo()
        assert sum(parameter.numel() for parameter in vae.parameters()) == 246_478_803


def test_names_and_folders(t2v: Path, i2v: Path, base: Path, tmp_path: Path) -> None:
    for folder, name in ((t2v, "skyreels-v1-t2v"), (i2v, "skyreels-v1-i2v")):
        assert locate(ModelSource(model=str(folder), base=str(base))).card.name == name
    whole = Path(shutil.copytree(base, tmp_path / "whole"))
    shutil.copytree(t2v, whole / "transformer")
    files = locate(ModelSource(model=str(whole)))
    assert (files.card.name, files.denoiser, files.base) == ("skyreels-v1-t2v", whole / "transformer", whole)
    with pytest.raises(ModelNotFoundError) as caught:
        locate(ModelSource(model="skyreels-v1-i2v", offline=True))
    assert (
        "hf download Skywork/SkyReels-V1-Hunyuan-I2V && "
        "hf download hunyuanvideo-community/HunyuanVideo --exclude 'transformer/*'; they go" in str(caught.value)
    )


@pytest.mark.parametrize(
    "name",
    [
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model-00002-of-00004.safetensors",
        "text_encoder_2/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer_2/vocab.json",
    ],
)
def test_a_missing_file_is_named_at_once(name: str, t2v: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    (folder / name).unlink()
    with pytest.raises(ModelFilesError, match=f"{folder / name} is missing"):
        load(t2v, folder)


def test_damaged_files_are_named(t2v: Path, base: Path, tmp_path: Path) -> None:
    folder, whole = Path(shutil.copytree(base, tmp_path / "base")), Path(shutil.copytree(t2v, tmp_path / "t2v"))
    shard = whole / "diffusion_pytorch_model-00002-of-00006.safetensors"
    kept = shard.read_bytes()
    shard.write_bytes(kept[:-7])
    with pytest.raises(ModelFilesError, match=f"{shard} is cut short"):
        load(whole, folder)
    shard.write_bytes(kept)
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    tokenizer.write_text("{")
    with pytest.raises(ModelFilesError, match=f"{folder / 'tokenizer'} holds no tokenizer that can be read"):
        load(whole, folder)


def change(folder: Path, name: str = "config.json", /, **values: object) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | values))


def test_parts_that_do_not_go_together(t2v: Path, i2v: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(i2v, tmp_path / "i2v"))
    (folder / "vinf.json").write_text('{"model": "skyreels-v1-t2v"}')
    with pytest.raises(ModelFilesError, match="says in_channels: 32; skyreels-v1-t2v wants 16"):
        load(folder, base)
    for values in ({"image_condition_type": "token_replace"}, {"in_channels": 33}):
        other = Path(shutil.copytree(t2v, tmp_path / f"other{len(list(tmp_path.iterdir()))}"))
        change(other, **values)
        with pytest.raises(ModelNotFoundError, match=r"\(HunyuanVideoTransformer3DModel\) fits none of"):
            load(other, base)
    for part, size, takes in (("text_encoder", 32, TEXT_DIM), ("text_encoder_2", 16, POOLED_DIM)):
        parts = Path(shutil.copytree(base, tmp_path / part))
        change(parts / part, hidden_size=size)
        with pytest.raises(ModelFilesError, match=f"{part}/config.json says hidden_size: {size}; .* takes {takes}"):
            load(t2v, parts)
    parts = Path(shutil.copytree(base, tmp_path / "betas"))
    change(parts / "scheduler", "scheduler_config.json", _class_name="DDIMScheduler")
    with pytest.raises(ModelFilesError, match="is of class DDIMScheduler, wanted FlowMatchEulerDiscreteScheduler"):
        load(t2v, parts)


def test_a_folder_may_have_a_native_size_of_its_own(base: Path, tmp_path: Path) -> None:
    save_skyreels(tmp_path, native={"width": 80, "height": 64, "frame_count": 17})
    model = load(tmp_path, base)
    limits = model.limits
    assert (limits.default_width, limits.default_height, limits.trained_frame_count) == (80, 64, 17)
    assert (limits.default_frame_count, model.temporal_sites.position_count) == (17, 5)
    for values, words in (
        ({"width": 72}, "width 72 is not a multiple of 16 in"),
        ({"height": 32}, r"height 32 is not a multiple of 16 in \[64, 1280\]"),
        ({"frame_count": 18}, r"vinf\.json says frame_count: 18, which .* nearest are 17 or 21"),
        ({"frame_count": 65_537}, r"frame_count 65537 is not in \[1, 65533\]"),
        ({"width": "wide"}, "says width: 'wide', which is not a number, 1 or more"),
        ({"width": True}, "says width: True, which is not a number, 1 or more"),
    ):
        (tmp_path / "vinf.json").write_text(json.dumps({"model": "skyreels-v1-t2v"} | values))
        with pytest.raises(ModelNotFoundError, match=words):
            load(tmp_path, base)


def test_wrong_options_are_named(t2v: Path, base: Path) -> None:
    for options, words in (
        ({"weights": "int4"}, "weights=int4 is not one of stored, fp8"),
        ({"offload": "all"}, "offload=all is not one of none, blocks"),
        ({"vae-tiling": "yes"}, "vae-tiling=yes is not one of on, off"),
        ({"latent-scale": "on"}, "skyreels-v1-t2v has no 'latent-scale', it has weights, offload, vae-tiling"),
    ):
        with pytest.raises(ConfigError, match=words):
            load(t2v, base, **options)
