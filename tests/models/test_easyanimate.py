"""EasyAnimate V5.1 in its published layout: found, loaded, equal to the stock pipelines; texts, images and options."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLMagvit,
    DDIMScheduler,
    EasyAnimateInpaintPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
)
from diffusers.pipelines.easyanimate import pipeline_easyanimate as stock_t2v
from diffusers.pipelines.easyanimate import pipeline_easyanimate_inpaint as stock
from diffusers.pipelines.easyanimate.pipeline_easyanimate_inpaint import get_image_to_video_latent

from tests.support.easyanimate import PROMPTS, change, save_easyanimate
from tests.support.engine import Recorder, spec
from vinf_core.diffusion.noise import frame_noise
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.errors import InvalidSpecError, ModelFilesError
from vinf_core.events import StageClock
from vinf_core.models import inpaint
from vinf_core.models.catalogue import catalogue
from vinf_core.models.easyanimate import EasyAnimateModel
from vinf_core.models.inpaint import NOISE_STRENGTH, reference_noise
from vinf_core.models.locate import ModelSource, locate
from vinf_core.models.magvit import WARM_UP_LATENTS
from vinf_core.models.registry import load_model
from vinf_core.models.temporal_decoder import HandOver
from vinf_core.types import GenerationSpec, ImageCondition, ImageFrames, Solver, TemporalScope

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")
FRAMES = 17
SIZE = 64
NEGATIVE = "模糊"


@pytest.fixture(scope="module")
def inp(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inp")
    save_easyanimate(folder)
    return folder


@pytest.fixture(scope="module")
def t2v(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("t2v")
    save_easyanimate(folder, takes_images=False)
    return folder


@pytest.fixture(scope="module")
def pipeline(inp: Path) -> EasyAnimateInpaintPipeline:
    made = EasyAnimateInpaintPipeline.from_pretrained(inp, local_files_only=True)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def model(inp: Path) -> EasyAnimateModel:
    return load(inp)


@pytest.fixture(scope="module")
def generator(model: EasyAnimateModel) -> Generator:
    return around(model)


def load(folder: Path, **options: str) -> EasyAnimateModel:
    source = ModelSource(model=str(folder), offline=True)
    made = load_model(source, options=options, device=CPU, dtype=torch.float32)
    assert isinstance(made, EasyAnimateModel)
    return made


def around(model: EasyAnimateModel) -> Generator:
    """The engine around it on one rank."""
    topology, clock = Topology.single(), StageClock(CPU)
    return Generator(model, topology, Exchange(topology, None, clock), clock)


def wanted(*images: ImageCondition, **changes: Any) -> GenerationSpec:
    values = {
        "prompt": PROMPTS[0],
        "negative_prompt": NEGATIVE,
        "frame_count": FRAMES,
        "width": SIZE + 16,
        "height": SIZE,
        "scope": TemporalScope(local_window_frames=2 * FRAMES, global_frames=0),
        "solver": Solver.FLOW_EULER,
        "step_count": 3,
        "guidance_scale": 5.0,
        "images": images,
    }
    return spec(**values | changes)


def image(frame: int, seed: int = 5) -> ImageCondition:
    pixels = torch.randint(256, (SIZE, SIZE + 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    pixels[:4] = 0  # black, which stands for what is not given, gets no noise
    return ImageCondition(frame, pixels.numpy().tobytes())


def pixels_of(condition: ImageCondition) -> torch.Tensor:
    """``[3, H, W]``, 0 to 1."""
    pixels = torch.frombuffer(bytearray(condition.pixels), dtype=torch.uint8)
    return pixels.view(SIZE, SIZE + 16, 3).permute(2, 0, 1).float() / 255


def made_by(generator: Generator, what: GenerationSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Final latents ``[C, latent frames, h, w]`` and pictures ``[F, H, W, 3]``."""
    control = ControlPlane(generator.topology, None)
    latents = generator.latents("g", what, generator.plan(what), Recorder(), control.agree)
    recorder = Recorder()
    generator.generate("g", what, observer=recorder, open_sink=lambda _: recorder, agree=control.agree)
    pictures = [torch.from_numpy(recorder.frames[frame]) for frame in range(what.frame_count)]
    return latents.transpose(0, 1), torch.stack(pictures)


def noise_of(what: GenerationSpec) -> torch.Tensor:
    shape = (16, what.height // 8, what.width // 8)
    return frame_noise(what.seed, range((what.frame_count - 1) // 4 + 1), shape).transpose(0, 1)[None]


def stock_run(pipeline: Any, what: GenerationSpec, **conditions: Any) -> torch.Tensor:
    """Final latents that a stock pipeline makes of the same noise."""
    with pytest.MonkeyPatch.context() as patch:
        # Not ``latents``: with a flow the inpaint pipeline fails where they are given (``noise`` unbound).
        for module in (stock, stock_t2v):
            patch.setattr(module, "randn_tensor", lambda shape, **_: noise_of(what).view(shape))
        return pipeline(
            what.prompt,
            negative_prompt=what.negative_prompt,
            num_frames=what.frame_count,
            width=what.width,
            height=what.height,
            num_inference_steps=what.step_count,
            guidance_scale=what.guidance_scale,
            output_type="latent",
            return_dict=False,
            **conditions,
        )[0][0]


def check(
    pipeline: Any, generator: Generator, what: GenerationSpec, **conditions: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and pictures equal those of a stock pipeline that gets the same noise."""

    latents, pictures = made_by(generator, what)
    expected = stock_run(pipeline, what, **conditions)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    decoded = pipeline.vae.decode(1 / pipeline.vae.config.scaling_factor * expected[None]).sample
    video = pipeline.video_processor.postprocess_video(decoded, output_type="pt")[0]
    levels = (video.permute(0, 2, 3, 1) * 255).round()
    assert (pictures.float() - levels).abs().max() <= 1, "8-bit levels, one apart where rounding decides"
    assert (pictures.float() != levels).float().mean() < 1e-3
    return latents, pictures


def conditions_of(
    what: GenerationSpec, monkeypatch: pytest.MonkeyPatch, *, noise: bool = True
) -> dict[str, torch.Tensor]:
    """The stock pipeline's own helper for images, and our noise in place of what it draws."""
    given = {condition.frame_index: pixels_of(condition) for condition in what.images}
    last = what.frame_count - 1
    video, mask = get_image_to_video_latent(
        [given[0]] if 0 in given else None, given.get(last), what.frame_count, (what.height, what.width)
    )

    def add_noise(masked: torch.Tensor, ratio: float | None = None, generator: Any = None) -> torch.Tensor:
        assert ratio == NOISE_STRENGTH
        drawn = torch.zeros_like(masked)
        for frame in given:
            drawn[0, :, frame] = reference_noise(what.seed, frame, tuple(masked.shape[i] for i in (1, 3, 4)))
        return masked + torch.where(masked == -1, torch.zeros_like(masked), drawn * ratio)

    monkeypatch.setattr(stock, "add_noise_to_reference_video", add_noise)
    return {"video": video, "mask_video": mask}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_text_alone_equals_the_stock_pipelines(pipeline, generator, monkeypatch, prompt: str) -> None:
    what = wanted(prompt=prompt)
    latents, _ = check(pipeline, generator, what)
    blank = conditions_of(what, monkeypatch)  # with everything masked
    again = stock_run(pipeline, what, **blank)
    torch.testing.assert_close(latents, again, rtol=1e-4, atol=1e-4)


def test_the_model_without_images_equals_its_own_pipeline(t2v: Path) -> None:
    made = EasyAnimatePipeline.from_pretrained(t2v, local_files_only=True)
    made.set_progress_bar_config(disable=True)
    model = load(t2v)
    assert model.limits.image_frames is ImageFrames.NONE
    assert model.limits.max_images == 0
    check(made, around(model), wanted())


def test_a_schedule_that_is_no_flow(t2v: Path, tmp_path: Path) -> None:
    """V5's (scheduler/scheduler_config.json), in a folder of V5.1."""
    folder = shutil.copytree(t2v, tmp_path / "model")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ).save_pretrained(folder / "scheduler")
    change(folder / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    made = EasyAnimatePipeline.from_pretrained(folder, local_files_only=True)
    made.set_progress_bar_config(disable=True)
    model = load(folder)
    assert model.limits.solvers == (Solver.DDIM,)
    check(made, around(model), wanted(solver=Solver.DDIM))


@pytest.mark.parametrize("frames", [(0,), (0, FRAMES - 1)])
def test_images_equal_the_stock_pipeline(pipeline, generator, monkeypatch, frames: tuple[int, ...]) -> None:
    what = wanted(*(image(frame, seed=frame) for frame in frames))
    latents, _ = check(pipeline, generator, what, **conditions_of(what, monkeypatch))
    without, _ = made_by(generator, wanted())
    assert not torch.allclose(latents, without, atol=1e-2)


def test_a_last_image_alone_is_the_stock_pipeline_with_its_own_mask(pipeline, generator, monkeypatch) -> None:
    """The pipeline's helper has no such case; the pipeline itself does."""
    what = wanted(image(FRAMES - 1))
    conditions_of(what, monkeypatch)
    video = torch.zeros(1, 3, FRAMES, what.height, what.width)
    mask = torch.full((1, 1, *video.shape[2:]), 255.0)
    video[0, :, -1], mask[:, :, -1] = pixels_of(what.images[0]), 0
    check(pipeline, generator, what, video=video, mask_video=mask)


def test_the_length_that_it_was_trained_with(pipeline, generator, monkeypatch) -> None:
    what = wanted(
        image(0),
        image(48),
        frame_count=49,
        step_count=1,
        scope=TemporalScope(local_window_frames=98, global_frames=0),
    )
    check(pipeline, generator, what, **conditions_of(what, monkeypatch))


def test_without_guidance(pipeline, generator) -> None:
    check(pipeline, generator, wanted(guidance_scale=1.0))


def test_prompts_are_encoded_as_stock_and_late(inp: Path, pipeline) -> None:
    model = load(inp)
    assert not model._text_encoder.is_loaded
    model.begin(wanted(), range(5))
    assert model.predict(torch.zeros(5, 16, 8, 10), 500.0, torch.zeros(1, 1, 256, 16)).shape == (5, 16, 8, 10)
    assert not model._text_encoder.is_loaded, "a rank that is given its texts needs no encoder"
    long = PROMPTS[1] * 40
    prompts = [*PROMPTS, long, ""]
    together = model.encode_text(prompts)
    assert model._text_encoder.is_loaded
    assert together.shape == (len(prompts), 256, 16)
    for prompt, got in zip(prompts, together, strict=True):
        expected = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)[0][0]
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(model.encode_text([prompt])[0], got), "whatever its company"
    for prompt in (PROMPTS[1], "雪山下的小河"):
        assert pipeline.tokenizer.decode(pipeline.tokenizer(prompt).input_ids) == prompt, "no unknown words"


def test_an_image_is_encoded_once(inp: Path, monkeypatch) -> None:
    model = load(inp)
    calls = []
    encode = inpaint.encode_sparse
    monkeypatch.setattr(inpaint, "encode_sparse", lambda *args: calls.append(args) or encode(*args))
    for _ in range(3):
        what = wanted(image(0))
        for latents in (range(5), range(2, 4), range(4, 5)):  # windows of one generation count once
            model.begin(what, latents)
    cache = model.image_cache
    assert (len(calls), cache.hit_count, cache.miss_count) == (1, 2, 1)
    model.begin(wanted(), range(5))
    assert (cache.hit_count, cache.miss_count) == (2, 1), "no image counts as nothing"
    others = [wanted(image(0, seed=6)), wanted(image(FRAMES - 1))]
    others += [wanted(image(0), seed=6), wanted(image(0), frame_count=21)]
    for other in others:
        model.begin(other, range(5))
    assert (len(calls), len(cache)) == (5, 5)
    assert cache.byte_count == sum(runs.byte_count for runs, _ in cache._kept.values())
    model.begin(what, range(5))
    assert cache.hit_count == 3


def test_a_rank_takes_the_condition_of_its_own_latent_frames(model) -> None:
    what = wanted(image(0), image(FRAMES - 1))
    model.begin(what, range(5))
    whole = model._condition
    assert whole.shape == (5, 17, SIZE // 8, (SIZE + 16) // 8)
    scale = model._vae.config.scaling_factor
    assert torch.equal(whole[:, 0].amax(dim=(1, 2)), torch.tensor([scale, 0, 0, 0, 0]))
    for part in (range(2), range(2, 5), range(1)):
        model.begin(what, part)
        assert torch.equal(model._condition, whole[part.start : part.stop])
    model.begin(wanted(), range(5))
    assert model._condition is None, "nothing is left of the video before"


def test_noise_of_images_follows_from_seed_and_frame() -> None:
    one = reference_noise(5, 0, (3, 8, 8))
    assert torch.equal(one, reference_noise(5, 0, (3, 8, 8)))
    others = reference_noise(6, 0, (3, 8, 8)), reference_noise(5, 1, (3, 8, 8)), frame_noise(5, [0], (3, 8, 8))[0]
    for other in others:
        assert not torch.allclose(one, other)
    drawn = reference_noise(5, 48, (3, 256, 256))
    assert abs(float(drawn.mean())) < 0.01
    assert abs(float(drawn.std()) - 1) < 0.01


def test_a_model_trained_without_noise_gets_none(inp: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(inp, tmp_path / "model")
    change(folder / "transformer" / "config.json", add_noise_in_inpaint_model=False)
    model = load(folder)
    model.begin(wanted(image(0)), range(5))
    model.begin(wanted(image(0), seed=6), range(5))
    assert (model.image_cache.hit_count, model.image_cache.miss_count) == (1, 1), "then the seed does not count"


def test_options(inp: Path, model, generator) -> None:
    exact, parallel = model, load(inp, vae="parallel")
    assert exact.temporal_decoder.grid.hand_over is HandOver.STATE
    assert parallel.temporal_decoder.grid.hand_over is HandOver.NONE
    assert parallel.temporal_decoder.grid.before == WARM_UP_LATENTS
    # Shorter than the warm-up: every chunk sees the video from its start.
    latents, pictures = made_by(generator, wanted())
    torch.testing.assert_close(made_by(around(parallel), wanted())[1], pictures, rtol=0, atol=1)
    on_host = load(inp, offload="blocks")
    torch.testing.assert_close(made_by(around(on_host), wanted())[0], latents)
    eight_bits = load(inp, weights="fp8")
    assert made_by(around(eight_bits), wanted())[0].isfinite().all()


def test_limits(model, generator) -> None:
    limits = model.limits
    assert (limits.default_frame_count, limits.default_frame_rate, limits.frames_per_latent) == (49, (8, 1), 4)
    assert (limits.default_step_count, limits.default_guidance_scale, limits.default_width) == (50, 5.0, 512)
    assert (limits.image_frames, limits.max_images) == (ImageFrames.FIRST_AND_LAST, 2)
    assert not limits.takes_story
    assert model.temporal_sites.position_count == 13
    with pytest.raises(InvalidSpecError, match=r"frame_count: 50 .*49 or 53"):
        generator.plan(wanted(frame_count=50))


def test_the_condition_goes_with_its_generation(inp: Path) -> None:
    model = load(inp)
    engine, sink = around(model), Recorder()
    agree = ControlPlane(engine.topology, None).agree
    tables: list[int] = []
    next(model.unet.rope_embedding.children()).register_forward_hook(lambda *_: tables.append(1))
    engine.generate("g", wanted(image(0)), observer=sink, open_sink=lambda _: sink, agree=agree)
    assert len(tables) == 1, "it is made on the CPU and copied"
    assert model._condition is None
    engine.probe(4)


def test_a_length_that_no_video_can_have_is_named(inp: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(inp, tmp_path / "own"))
    (folder / "vinf.json").write_text('{"model": "easyanimate-v5.1-7b-inp", "frame_count": 50}')
    with pytest.raises(ModelFilesError, match=r"own/vinf\.json says frame_count: 50, .* nearest are 49 or 53"):
        load(folder)


@pytest.mark.parametrize(
    ("part", "values", "why"),
    [
        (
            "transformer",
            {"text_embed_dim_t5": 2048},
            r"text_embed_dim_t5: 2048; that is EasyAnimate V5, .*V5\.1 can be",
        ),
        ("vae", {"mid_block_use_attention": True}, r"mid_block_use_attention: True; that is EasyAnimate V5, whose VAE"),
        ("vae", {"cache_mag_vae": False}, "cache_mag_vae: False"),
        ("transformer", {"resize_inpaint_mask_directly": False}, "resize_inpaint_mask_directly: False; masks that"),
        ("transformer", {"out_channels": 32}, "out_channels: 32; easyanimate-v5.1-7b-inp wants 16"),
        ("text_encoder", {"text_config": {"hidden_size": 9}}, "hidden_size: 9; the denoiser takes 16"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded_is_refused(inp: Path, tmp_path: Path, part: str, values: dict, why: str) -> None:
    folder = shutil.copytree(inp, tmp_path / "model")
    change(folder / part / "config.json", **values)
    with pytest.raises(ModelFilesError, match=why):
        load(folder)


def test_a_tokenizer_without_a_chat_template(inp: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(inp, tmp_path / "model")
    change(folder / "tokenizer" / "tokenizer_config.json", chat_template=None)
    with pytest.raises(ModelFilesError, match=r"tokenizer holds no chat template"):
        load(folder)
    (folder / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelFilesError, match=r"tokenizer holds no tokenizer that can be read"):
        load(folder)


def test_a_folder_says_which_model_it_holds(inp: Path, t2v: Path, tmp_path: Path) -> None:
    assert locate(ModelSource(model=str(inp))).card.name == "easyanimate-v5.1-7b-inp"
    assert locate(ModelSource(model=str(t2v))).card.name == "easyanimate-v5.1-7b"
    for source, name in ((inp, "easyanimate-v5.1-12b-inp"), (t2v, "easyanimate-v5.1-12b")):
        folder = shutil.copytree(source, tmp_path / name)
        change(folder / "transformer" / "config.json", num_layers=48)
        assert locate(ModelSource(model=str(folder))).card.name == name


def test_published_sizes() -> None:
    """In half precision 23.6 GB for the transformer of 12B, and 978 MB in full for the VAE, as their files have."""
    cards = catalogue()
    family = {"add_norm_text_encoder": True, "text_embed_dim": 3584, "out_channels": 16, "patch_size": 2}
    with torch.device("meta"):
        for name, layers, mmdit_layers in (("7b", 36, 18), ("12b", 48, 48)):
            for channels, suffix in ((33, "-inp"), (16, "")):
                transformer = EasyAnimateTransformer3DModel(
                    num_layers=layers, mmdit_layers=mmdit_layers, in_channels=channels, **family
                )
                count = sum(parameter.numel() for parameter in transformer.parameters())
                assert count == cards[f"easyanimate-v5.1-{name}{suffix}"].parameter_count
        vae = sum(parameter.numel() for parameter in AutoencoderKLMagvit().parameters())
    assert round(2 * cards["easyanimate-v5.1-12b-inp"].parameter_count / 1e9, 1) == 23.6
    assert round(2 * cards["easyanimate-v5.1-7b-inp"].parameter_count / 1e9, 1) == 13.6
    assert vae == 244_375_507
    assert round(4 * vae / 1e6) == 978
