"""Previews: what the solver takes the clean latents to be, of which frames, when; and that they change nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.support.engine import Recorder, make_generator, spec
from tests.support.ranks import RankPool
from tests.support.store import Store
from tests.support.tiny import SOLVERS, tiny_model
from vinf_core.context.partition import clips_of
from vinf_core.diffusion.preview import Preview, Previewer, clean_estimate, preview_frames
from vinf_core.diffusion.schedule import make_scheduler
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.events import Verdict
from vinf_core.models.preview_map import PreviewMap
from vinf_core.types import Clip, GenerationSpec, Solver

CONFIG = tiny_model().scheduler_config


@dataclass
class Shown:
    """A `PreviewSink` that keeps everything."""

    previews: list[Preview] = field(default_factory=list)
    has_room: bool = True

    def send(self, preview: Preview) -> None:
        preview.wait()
        self.previews.append(preview)

    @property
    def steps(self) -> list[int]:
        return [preview.completed_steps for preview in self.previews]


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_exact_model_shows_the_clean_latents_at_every_step(solver: Solver, kind: str) -> None:
    # With a last step of pure noise nothing but v-prediction knows the clean latents there.
    config = CONFIG | {"prediction_type": kind, "rescale_betas_zero_snr": kind == "v_prediction"}
    scheduler = make_scheduler(solver, config, 7)
    generator = torch.Generator().manual_seed(1)
    clean, latents = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, generator=generator)
    for timestep in scheduler.timesteps:
        signal = scheduler.alphas_cumprod[timestep].double()
        noise = (latents - signal.sqrt() * clean) / (1 - signal).sqrt()
        prediction = signal.sqrt() * noise - (1 - signal).sqrt() * clean if kind == "v_prediction" else noise
        step = scheduler.step(prediction, timestep, latents)
        latents = step.prev_sample
        error = float((clean_estimate(scheduler, step) - clean).norm() / clean.norm())
        # The solvers keep their noise levels in float32.
        assert error < 1e-4, f"relative L2 error {error:.1e} at timestep {timestep}"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("clip", "frames"),
    [
        (Clip(7, 0), ()),
        (Clip(7, 1), (7,)),
        (Clip(7, 2), (7, 8)),
        (Clip(7, 3), (7, 8, 9)),
        (Clip(7, 100), (7, 56, 106)),
    ],
)
def test_first_middle_and_last_frame_of_a_clip(clip: Clip, frames: tuple[int, ...]) -> None:
    assert preview_frames(clip) == frames


@pytest.mark.fast
def test_a_map_is_linear_in_position_and_mean() -> None:
    preview_map = PreviewMap(
        torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, -1.0]]),
        torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.0]]),
        torch.tensor([0.0, 0.25, 0.5]),
    )
    latents = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    latents[0, :, 0, 0] = torch.tensor([0.8, 0.5])
    latents[0, :, 0, 1] = torch.tensor([0.0, -9.0])
    # Mean of channel 0: 0.4. Levels beyond the ends are cut off.
    expected = [[[204, 115, 0], [0, 115, 255]]]
    assert preview_map.pictures(latents)[0].tolist() == expected
    assert preview_map.pictures(latents * torch.nan).tolist() == [[[[0, 0, 0], [0, 0, 0]]]], (
        "what is no number is black"
    )


@pytest.mark.fast
def test_previews_come_at_their_steps_while_there_is_room() -> None:
    sink = Shown()
    model = tiny_model(torch.float32)
    assert model.preview_map is not None
    previewer = Previewer(sink, model.preview_map, Clip(10, 5), interval=2)
    clean = torch.randn(5, 4, 4, 6)
    for step in range(1, 9):
        sink.has_room = step != 4
        previewer.step_ended(step, clean)
    assert sink.steps == [2, 6, 8], "what cannot be sent is left out, and nothing else"
    assert all(preview.frames == (10, 12, 14) for preview in sink.previews)
    assert torch.equal(sink.previews[0].pictures, model.preview_map.pictures(clean[[0, 2, 4]]))
    assert sink.previews[0].pictures.shape == (3, 4, 6, 3)


def run_with_previews(
    topology: Topology, groups: Groups, what: GenerationSpec, counts: list[int], interval: int
) -> tuple[torch.Tensor, list[tuple[int, tuple[int, ...]]]]:
    """Final latents of this rank's clip; steps and frames that were shown."""
    generator, control, _ = make_generator(topology, groups, torch.float32)
    sink = Shown()
    layout = generator.plan(what, clips_of(counts))
    latents = generator.latents("g", what, layout, Recorder(), control.agree, previews=sink, preview_interval=interval)
    return latents.clone(), [(preview.completed_steps, preview.frames) for preview in sink.previews]


@pytest.mark.process
@pytest.mark.parametrize("solver", SOLVERS)
def test_previews_change_no_bit_of_the_video(rank_pool: RankPool, solver: Solver) -> None:
    what, counts = spec(solver=solver, step_count=5), [7, 0, 4]
    plain, shown = (rank_pool.run(3, run_with_previews, what, counts, interval) for interval in (0, 2))
    for (expected, nothing), (latents, _) in zip(plain, shown, strict=True):
        assert torch.equal(latents, expected)
        assert not nothing, "nobody asked for previews"
    assert [previews for _, previews in shown] == [
        [(2, (0, 3, 6)), (4, (0, 3, 6))],
        [],
        [(2, (7, 8, 10)), (4, (7, 8, 10))],
    ], "clips one by one; an empty one shows nothing"


@pytest.mark.fast
@pytest.mark.parametrize("solver", SOLVERS)
def test_previews_go_on_after_a_resume(solver: Solver) -> None:
    what = spec(solver=solver, step_count=5)
    topology, groups = Topology.single(), Groups(control=None, data=None)
    generator, control, _ = make_generator(topology, groups, torch.float32)
    layout, store = generator.plan(what), Store()

    def agree(ready: bool = True, *, save: bool = False, **more: Any) -> Verdict:
        return control.agree(ready, save=True, **more)

    pictures = {}
    for resume_step in (0, 3):
        sink = Shown()
        generator.latents(
            "g",
            what,
            layout,
            Recorder(),
            agree,
            checkpoints=store,
            resume_step=resume_step,
            previews=sink,
            preview_interval=1,
        )
        assert sink.steps == list(range(resume_step + 1, 6))
        pictures[resume_step] = {preview.completed_steps: preview.pictures for preview in sink.previews}
    for step, picture in pictures[3].items():
        assert torch.equal(picture, pictures[0][step])
