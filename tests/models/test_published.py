"""Models in their published layouts: found, loaded, and equal to stock diffusers where stock can do the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel

from tests.support.engine import spec
from tests.support.published import save_modelscope, save_videocrafter2
from vinf_core.context.clip_context import ClipContext
from vinf_core.context.install import install
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.diffusion.denoise import denoise
from vinf_core.diffusion.noise import frame_noise
from vinf_core.diffusion.schedule import make_scheduler
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.events import StageClock, Verdict
from vinf_core.models.adapter import VideoModel
from vinf_core.models.catalogue import catalogue
from vinf_core.models.latent_scale import LatentScale
from vinf_core.models.locate import ModelSource, locate
from vinf_core.models.registry import load_model
from vinf_core.models.videocrafter2 import VideoCrafterUNet
from vinf_core.types import GenerationSpec, Solver, TemporalScope

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")
FRAMES = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("modelscope")
    save_modelscope(folder)
    return folder


@pytest.fixture(scope="module")
def videocrafter2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videocrafter2")
    save_videocrafter2(folder)
    return folder


def load(model: Path, base: Path | None = None, **options: str) -> VideoModel:
    source = ModelSource(model=str(model), base=str(base or ""), offline=True)
    return load_model(source, options=options, device=CPU, dtype=torch.float32)


def whole_window(**changes) -> GenerationSpec:
    scope = TemporalScope(local_window_frames=2 * FRAMES, global_frames=0)
    values = {"frame_count": FRAMES, "width": 64, "height": 64, "scope": scope, "solver": Solver.DDIM, "step_count": 4}
    return spec(**values | changes)


def latents_of(model: VideoModel, wanted: GenerationSpec) -> torch.Tensor:
    topology, clock = Topology.single(), StageClock(CPU)
    context = ClipContext(Exchange(topology, None, clock))
    install(model.unet, model.temporal_sites, context, model.framewise_sites)
    count = model.temporal_sites.position_count
    context.begin_generation(Layout.build(clips_of([wanted.frame_count]), 0, wanted.scope, position_count=count))
    model.begin(wanted, range(FRAMES))
    text = model.encode_text([wanted.negative_prompt, wanted.prompt])[:, None]
    return denoise(
        model,
        context,
        wanted,
        text,
        clock=clock,
        agree=lambda ready=True, **_: Verdict.GO,
        on_step=lambda step, seconds: None,
    )


def test_modelscope_equals_the_stock_pipeline(base: Path) -> None:
    wanted = whole_window()
    got = latents_of(load(base), wanted)
    pipeline = TextToVideoSDPipeline.from_pretrained(base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = frame_noise(wanted.seed, range(FRAMES), got.shape[1:])
    expected = pipeline(
        wanted.prompt,
        negative_prompt=wanted.negative_prompt,
        num_frames=FRAMES,
        width=wanted.width,
        height=wanted.height,
        num_inference_steps=wanted.step_count,
        guidance_scale=wanted.guidance_scale,
        latents=noise.transpose(0, 1)[None],
        output_type="latent",
        return_dict=False,
    )[0]
    assert torch.allclose(got, expected[0].transpose(0, 1), atol=1e-4, rtol=1e-4)


def test_a_bare_denoiser_takes_the_rest_from_its_base(videocrafter2: Path, base: Path) -> None:
    model = load(videocrafter2, base)
    assert model.limits.name == "videocrafter2"
    assert model.latent_scale == LatentScale()
    assert load(videocrafter2, base, **{"latent-scale": "off"}).latent_scale is None
    assert latents_of(model, whole_window()).isfinite().all()


def test_frame_rate_is_a_condition_added_to_the_timestep(videocrafter2: Path) -> None:

    unet = VideoCrafterUNet.from_pretrained(videocrafter2, local_files_only=True).eval()
    video = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1))
    stock = UNet3DConditionModel.from_config(UNet3DConditionModel.load_config(videocrafter2)).eval()
    missing, unexpected = stock.load_state_dict(unet.state_dict(), strict=False)
    assert not missing
    assert {name.partition(".")[0] for name in unexpected} == {"fps_embedding"}
    with torch.inference_mode():
        for rate in (8.0, 24.0):
            unet.set_frame_rate(rate)
            added = unet.fps_embedding(unet.fps_proj(torch.tensor([rate])))
            hook = stock.time_embedding.register_forward_hook(lambda module, args, out, added=added: out + added)
            assert torch.equal(unet(video, torch.tensor(9), text).sample, stock(video, torch.tensor(9), text).sample)
            hook.remove()


def test_two_frame_rates_give_two_videos(videocrafter2: Path, base: Path) -> None:
    slow, fast = (latents_of(load(videocrafter2, base), whole_window(frame_rate=rate)) for rate in (8.0, 24.0))
    assert not torch.allclose(slow, fast, atol=1e-3)


def test_scaled_latents_follow_videocrafters_own_sampler(videocrafter2: Path, base: Path) -> None:
    """DDIM with eta 0 as VideoCrafter writes it (lvdm/models/samplers/ddim.py), beside a stock solver in z."""
    config = load(videocrafter2, base).scheduler_config
    scale = LatentScale()
    scheduler = make_scheduler(Solver.DDIM, config, 20, scale)
    alphas = DDIMScheduler.from_config(config).alphas_cumprod.double()
    factors = scale.factors(len(alphas))

    def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
        return torch.tanh(x * 0.7 + timestep / 1000)

    noise = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, z = noise, noise * scheduler.init_noise_sigma
    steps = [int(timestep) for timestep in scheduler.timesteps]
    for timestep in steps:
        before = timestep - 1000 // 20
        e = predict(x, timestep)
        clean = (x - (1 - alphas[timestep]).sqrt() * e) / alphas[timestep].sqrt() / factors[timestep]
        kept, factor = (alphas[before], factors[before]) if before >= 0 else (alphas[0], factors[0])
        x = kept.sqrt() * factor * clean + (1 - kept).sqrt() * e
        seen = scheduler.scale_model_input(z, timestep)
        z = scheduler.step(predict(seen, timestep), timestep, z).prev_sample
    assert torch.allclose(scheduler.scale_model_input(z, 0), x, rtol=1e-4, atol=1e-4)


def test_published_sizes() -> None:
    """VideoCrafter2 and ModelScope at full size, without memory for their weights."""
    cards = catalogue()
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in VideoCrafterUNet().parameters())
        unet = UNet3DConditionModel(attention_head_dim=64, cross_attention_dim=1024)
        stock = sum(parameter.numel() for parameter in unet.parameters())
    assert count == cards["videocrafter2"].parameter_count == 1_413_284_420
    assert stock == cards["modelscope"].parameter_count == cards["zeroscope-v2"].parameter_count == 1_411_233_860
    embedded = load_model(ModelSource(model="sprites"), device=CPU, dtype=torch.float32)
    assert sum(parameter.numel() for parameter in embedded.unet.parameters()) == cards["sprites"].parameter_count


def test_a_folder_says_which_model_it_holds(base: Path, videocrafter2: Path, tmp_path: Path) -> None:
    assert locate(ModelSource(model=str(base))).card.name == "modelscope"
    assert locate(ModelSource(model=str(videocrafter2), base=str(base))).card.name == "videocrafter2"
    (tmp_path / "unet").symlink_to(base / "unet")
    (tmp_path / "vinf.json").write_text('{"model": "zeroscope-v2"}')
    assert locate(ModelSource(model=str(tmp_path))).card.name == "zeroscope-v2"
