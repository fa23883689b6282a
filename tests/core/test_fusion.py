"""Overlapping windows fused at each step: the same video on any number of ranks, and what the formula says."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch

from tests.core.test_checkpoint import run_with_checkpoints
from tests.support.engine import Recorder, final_latents, make_generator, spec
from tests.support.ranks import RankPool
from tests.support.tiny import tiny_limits, tiny_model, tiny_unet
from vinf_core.context.partition import clips_of
from vinf_core.diffusion.fusion import window_weights, windows_of
from vinf_core.diffusion.noise import initial_noise
from vinf_core.diffusion.schedule import make_scheduler
from vinf_core.distributed.exchange import Exchange, FramePlan
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.limits import check_spec
from vinf_core.errors import InvalidSpecError
from vinf_core.types import Clip, GenerationSpec, PromptSegment, Solver, TemporalScope

ALONE = (Topology.single(), Groups(control=None, data=None))
TRAINED = tiny_limits().trained_frame_count
STORY = (
    PromptSegment(start_frame=9, prompt="a blue cube", transition_frames=6),
    PromptSegment(start_frame=23, prompt="a green ring", cut=True),
)


def video(frame_count: int = 2 * TRAINED + 5, overlap: int = 6, **changes: object) -> GenerationSpec:
    scope = TemporalScope(local_window_frames=0, global_frames=0, overlap_frames=overlap)
    return spec(frame_count=frame_count, scope=scope, **({"step_count": 3, "solver": Solver.DDIM} | changes))


@cache
def on_one_rank(what: GenerationSpec, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return final_latents(*ALONE, what, [what.frame_count], dtype)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.fast
@pytest.mark.parametrize("overlap", [1, 5, 15])
@pytest.mark.parametrize("frames", [1, 15, 16, 17, 40, 77])
def test_windows_cover_a_scene_at_the_trained_length(frames: int, overlap: int) -> None:
    windows = windows_of((range(7, 7 + frames), range(7 + frames, 100)), 16, overlap)
    first = [window for window in windows if window.start < 7 + frames]
    assert {frame for window in first for frame in window} == set(range(7, 7 + frames))
    assert {len(window) for window in first} == {min(16, frames)}
    assert all(b.start - a.start <= 16 - overlap for a, b in pairwise(first))
    assert len(set(windows)) == len(windows), "a window counts twice"


@pytest.mark.fast
def test_weights_fall_towards_neighbours_and_not_towards_the_ends_of_a_scene() -> None:
    scene = range(20)
    assert window_weights(range(8), scene, 3).tolist() == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert window_weights(range(5, 13), scene, 3).tolist() == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]
    assert window_weights(range(12, 20), scene, 3).tolist() == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


@pytest.mark.fast
def test_a_video_of_the_trained_length_is_the_models_own() -> None:
    """One window: nothing is fused, and the dual scope over the whole video is the stock UNet's attention."""
    what = video(TRAINED)
    whole = replace(what, scope=TemporalScope(local_window_frames=2 * TRAINED, global_frames=0))
    assert relative_error(on_one_rank(what), on_one_rank(whole)) < 1e-12


@pytest.mark.fast
@torch.inference_mode()
def test_clean_latents_are_fused_as_the_formula_says() -> None:
    """Against a loop with the stock UNet that averages the clean latents themselves, then takes the step."""
    what = video(guidance_scale=1.0, step_count=2)
    model, unet = tiny_model(torch.float64), tiny_unet()
    text = model.encode_text([what.prompt])
    scheduler = make_scheduler(what.solver, model.scheduler_config, what.step_count)
    shape = model.latent_shape(what.width, what.height)
    latents = initial_noise(what, range(what.frame_count), shape, TRAINED).double()
    scene = range(what.frame_count)
    windows = windows_of((scene,), TRAINED, what.scope.overlap_frames)
    assert len(windows) > 2
    for timestep in scheduler.timesteps:
        clean = torch.zeros_like(latents)
        total = torch.zeros(what.frame_count, 1, 1, 1, dtype=torch.float64)
        signal = scheduler.alphas_cumprod[int(timestep)].double()
        for window in windows:
            noisy = latents[window.start : window.stop]
            velocity = unet(noisy.transpose(0, 1)[None], timestep, text, return_dict=False)[0][0].transpose(0, 1)
            weights = window_weights(window, scene, what.scope.overlap_frames)[:, None, None, None]
            clean[window.start : window.stop] += weights * (signal.sqrt() * noisy - (1 - signal).sqrt() * velocity)
            total[window.start : window.stop] += weights
        clean /= total
        velocity = (signal.sqrt() * latents - clean) / (1 - signal).sqrt()
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    # The schedule's own numbers are float32.
    assert relative_error(on_one_rank(what), latents) < 1e-6


@pytest.mark.process
@pytest.mark.parametrize(
    "what",
    [video(), video(solver=Solver.DPM_SOLVER_PP_2M), video(segments=STORY), video(overlap=1), video(5)],
    ids=["ddim", "dpm++", "a story with a cut", "little overlap", "shorter than a window"],
)
def test_the_video_is_the_same_on_any_number_of_ranks(rank_pool: RankPool, what: GenerationSpec) -> None:
    tolerance = 1e-12 if what.solver is Solver.DDIM else 1e-6
    count = what.frame_count
    for counts in ([count - count // 2, count // 2], [2, count - 3, 1], [count // 3, 0, count - count // 3 - 1, 1]):
        parts = rank_pool.run(len(counts), final_latents, what, counts, torch.float64)
        error = relative_error(torch.cat(parts), on_one_rank(what))
        assert error < tolerance, f"clips {counts}: relative L2 error {error:.1e}, expected below {tolerance}"


def speed_after(topology: Topology, groups: Groups, what: GenerationSpec, counts: list[int]) -> int:
    generator, control, _ = make_generator(topology, groups)
    generator.latents("g", what, generator.plan(what, clips_of(counts)), Recorder(), control.agree)
    return generator.speed


@pytest.mark.process
def test_a_rank_without_a_window_learns_nothing_about_its_speed(rank_pool: RankPool) -> None:
    """Its clip is done in no time, by another rank; measured clips would give it the next video."""
    idle, busy = rank_pool.run(2, speed_after, video(TRAINED), [TRAINED // 2, TRAINED - TRAINED // 2])
    assert idle == 0
    assert busy > 0


@pytest.mark.process
def test_a_video_goes_on_from_a_checkpoint(rank_pool: RankPool) -> None:
    what = video()
    counts = [20, what.frame_count - 20]
    begun = rank_pool.run(2, run_with_checkpoints, what, counts, torch.float64)
    records = {step: begun[0][1][step] | begun[1][1][step] for step in begun[0][1]}
    for clips in (counts, [9, 0, what.frame_count - 9]):
        parts = rank_pool.run(len(clips), run_with_checkpoints, what, clips, torch.float64, records, 2)
        assert relative_error(torch.cat([part for part, _, _ in parts]), on_one_rank(what)) < 1e-12


@pytest.mark.fast
def test_the_option_does_something_and_only_when_asked() -> None:
    fused = on_one_rank(video())
    alone = on_one_rank(replace(video(), scope=TemporalScope(local_window_frames=0, global_frames=0)))
    assert relative_error(fused, alone) > 1e-3


@pytest.mark.fast
def test_texts_follow_the_frames_of_the_windows() -> None:
    generator, _, _ = make_generator(*ALONE, torch.float64)
    what = video(segments=STORY)
    frames = (3, 9, 12, 24)
    whole = generator.texts.encode(what, Clip(0, what.frame_count).frames)
    assert torch.equal(generator.texts.encode(what, frames), whole[:, list(frames)])


@pytest.mark.fast
def test_what_windows_say_has_the_type_of_the_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a model predicts in: a rank without a window knows no other type of what it receives."""
    generator, control, _ = make_generator(*ALONE, torch.float32)
    predict, with_context = generator.model.predict, Exchange.with_context
    types = set()

    def wide(latents: torch.Tensor, timestep: float, text: torch.Tensor) -> torch.Tensor:
        return predict(latents, timestep, text).double()

    def noted(self: Exchange, own: torch.Tensor, plan: FramePlan) -> torch.Tensor:
        types.add(own.dtype)
        return with_context(self, own, plan)

    generator.model.predict = wide  # type: ignore[method-assign]
    monkeypatch.setattr(Exchange, "with_context", noted)
    what = video(step_count=1)
    generator.latents("g", what, generator.plan(what), Recorder(), control.agree)
    assert types == {torch.float32}


@pytest.mark.fast
@pytest.mark.parametrize("overlap", [TRAINED, 500])
def test_an_overlap_as_long_as_a_window_is_refused(overlap: int) -> None:
    with pytest.raises(InvalidSpecError, match=rf"overlap_frames: {overlap} is not in \[0, {TRAINED - 1}\]"):
        check_spec(video(overlap=overlap), tiny_limits())
