"""EasyAnimate V5.1 on real ranks: the same video as on one, its text encoded on one rank, its decoder handed on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.easyanimate import PROMPTS, save_easyanimate
from tests.support.engine import Recorder, spec
from tests.support.mesh import make_axes
from tests.support.ranks import RankPool
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.events import Pixels, StageClock
from vinf_core.models.locate import ModelSource
from vinf_core.models.registry import load_model
from vinf_core.types import GenerationSpec, ImageCondition, Solver, TemporalScope

pytestmark = pytest.mark.process

SIZE = 64
LONG = 4 * 49 + 1
"""Four times the trained length."""
WINDOWS = TemporalScope(local_window_frames=0, global_frames=0, overlap_frames=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("easyanimate")
    save_easyanimate(made)
    return made


def wanted(frame_count: int) -> GenerationSpec:
    def image(frame: int) -> ImageCondition:
        generator = torch.Generator().manual_seed(frame)
        pixels = torch.randint(256, (SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
        return ImageCondition(frame, pixels.numpy().tobytes())

    return spec(
        prompt=PROMPTS[1],
        frame_count=frame_count,
        width=SIZE,
        height=SIZE,
        scope=TemporalScope(local_window_frames=24, global_frames=12),
        solver=Solver.FLOW_EULER,
        step_count=2,
        guidance_scale=5.0,
        images=(image(0), image(frame_count - 1)),
    )


def made_by(
    topology: Topology, groups: Groups, folder: Path, what: GenerationSpec, vae: str, mesh: dict[str, int]
) -> tuple[torch.Tensor, dict[int, Pixels], bool]:
    """Final latents of this rank's clip, the pictures that it decoded, and whether it loaded the text encoder."""
    source = ModelSource(model=str(folder), offline=True)
    model: Any = load_model(source, options={"vae": vae}, device=topology.device, dtype=torch.float32)
    clock = StageClock(topology.device)
    axes = make_axes(topology, groups, **mesh) if mesh else Axes.alone(Exchange(topology, groups.data, clock))
    generator = Generator(model, axes.world.topology, axes, clock)
    control = ControlPlane(topology, groups.control)
    latents = generator.latents("g", what, generator.plan(what), Recorder(), control.agree)
    recorder = Recorder()
    generator.generate("g", what, observer=recorder, open_sink=lambda _: recorder, agree=control.agree)
    return latents.clone(), recorder.frames, model._text_encoder.is_loaded


def alone(folder: Path, what: GenerationSpec, vae: str = "exact") -> tuple[torch.Tensor, dict[int, Pixels], bool]:
    return made_by(Topology.single(), Groups(control=None, data=None), folder, what, vae, {})


def check(parts: list[Any], expected: tuple[torch.Tensor, dict[int, Pixels], bool], *, each: int = 1) -> None:
    """The parts of all ranks, ``each`` of them a clip, make the video."""
    latents, pictures, _ = expected
    torch.testing.assert_close(torch.cat([part[0] for part in parts[::each]]), latents, rtol=1e-4, atol=1e-4)
    joined: dict[int, Pixels] = {}
    for _, frames, _ in parts:
        assert frames, "every rank decodes"
        joined |= frames
    assert sorted(joined) == sorted(pictures)
    for frame, levels in pictures.items():
        difference = np.abs(joined[frame].astype(int) - levels.astype(int))
        assert difference.max() <= 1, f"frame {frame}"
    assert [loaded for _, _, loaded in parts] == [True] + [False] * (len(parts) - 1)


def test_four_times_the_trained_length_is_the_same_on_any_number_of_ranks(rank_pool: RankPool, folder: Path) -> None:
    what = wanted(LONG)
    expected = alone(folder, what)
    for ranks in (2, 3):
        check(rank_pool.run(ranks, made_by, folder, what, "exact", {}), expected)


def test_overlapping_windows_are_the_same_on_any_number_of_ranks(rank_pool: RankPool, folder: Path) -> None:
    """Three windows, of which the first has the first image and the last one the last."""
    what = replace(wanted(97), scope=WINDOWS)
    expected = alone(folder, what)
    for ranks in (2, 3):
        check(rank_pool.run(ranks, made_by, folder, what, "exact", {}), expected)


def test_two_clips_of_two_ranks_each(rank_pool: RankPool, folder: Path) -> None:
    what = wanted(73)
    expected = alone(folder, what)
    for mesh in ({"context": 2}, {"cfg": 2}):
        check(rank_pool.run(4, made_by, folder, what, "exact", mesh), expected, each=2)


def test_parallel_decoding_does_not_depend_on_the_ranks(rank_pool: RankPool, folder: Path) -> None:
    what = wanted(97)
    check(rank_pool.run(2, made_by, folder, what, "parallel", {}), alone(folder, what, "parallel"))
