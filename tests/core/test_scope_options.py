"""FreeNoise and key frames on any number of ranks: the same video, and the same again from a checkpoint."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from tests.core.test_checkpoint import run_with_checkpoints
from tests.support.engine import final_latents, spec
from tests.support.ranks import RankPool
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.types import GenerationSpec, GlobalChoice, InitialNoise, PromptSegment, Solver, TemporalScope

pytestmark = pytest.mark.process

ALONE = (Topology.single(), Groups(control=None, data=None))
FREENOISE = {"initial_noise": InitialNoise.FREENOISE}
KEY_FRAMES = {"global_choice": GlobalChoice.KEY_FRAMES}
OPTIONS = [FREENOISE, KEY_FRAMES, FREENOISE | KEY_FRAMES]
IDS = ["freenoise", "key frames", "both"]
PARTITIONS = [[15, 14], [6, 13, 10], [9, 0, 19, 1]]
CUT = (PromptSegment(start_frame=17, prompt="a blue cube", cut=True),)


def video(options: dict[str, Any], *, bias: float = 10.0, across: bool = False, **changes: Any) -> GenerationSpec:
    """29 frames of the tiny model."""
    scope = TemporalScope(
        local_window_frames=4,
        global_frames=3,
        phase_timestep=500,
        phase_bias=bias,
        global_across_cuts=across,
        **options,
    )
    return spec(frame_count=29, step_count=4, scope=scope, **changes)


@cache
def on_one_rank(what: GenerationSpec, dtype: torch.dtype) -> torch.Tensor:
    return final_latents(*ALONE, what, [what.frame_count], dtype)


def check(
    rank_pool: RankPool, what: GenerationSpec, dtype: torch.dtype, tolerance: float, partitions: list[list[int]]
) -> None:
    expected = on_one_rank(what, dtype)
    for counts in partitions:
        parts = rank_pool.run(len(counts), final_latents, what, counts, dtype)
        error = float((torch.cat(parts) - expected).norm() / expected.norm())
        assert error < tolerance, f"clips {counts}: relative L2 error {error:.1e}, expected below {tolerance}"


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_the_video_is_the_same_on_every_partition(rank_pool: RankPool, options: dict[str, Any]) -> None:
    what = video(options, solver=Solver.DDIM)
    without = on_one_rank(video({}, solver=Solver.DDIM), torch.float64)
    assert float((on_one_rank(what, torch.float64) - without).norm() / without.norm()) > 1e-3, "the option does nothing"
    check(rank_pool, what, torch.float64, 1e-12, PARTITIONS if len(options) > 1 else PARTITIONS[1:2])


@pytest.mark.parametrize("across", [False, True], ids=["a sample a scene", "across cuts"])
def test_a_video_of_scenes_is_the_same_on_every_partition(rank_pool: RankPool, across: bool) -> None:
    what = video(FREENOISE | KEY_FRAMES, bias=0.0, across=across, segments=CUT, solver=Solver.DDIM)
    check(rank_pool, what, torch.float64, 1e-12, [[6, 13, 10]])


def test_the_video_is_the_same_in_float32(rank_pool: RankPool) -> None:
    what = video(FREENOISE | KEY_FRAMES, solver=Solver.DPM_SOLVER_PP_2M)
    check(rank_pool, what, torch.float32, 1e-4, PARTITIONS)


@pytest.mark.parametrize(
    ("solver", "dtype", "tolerance"),
    [(Solver.DDIM, torch.float64, 1e-12), (Solver.DPM_SOLVER_PP_2M, torch.float32, 1e-4)],
    ids=["ddim-float64", "dpm++-float32"],
)
def test_a_video_goes_on_with_the_frames_that_were_chosen(
    rank_pool: RankPool, solver: Solver, dtype: torch.dtype, tolerance: float
) -> None:
    """After step 3 the choice made after step 2 still counts: nothing else in a checkpoint tells it."""
    what = video(FREENOISE | KEY_FRAMES, segments=CUT, solver=solver)
    expected = on_one_rank(what, dtype)
    begun = rank_pool.run(2, run_with_checkpoints, what, [15, 14], dtype)
    same = torch.cat([latents for latents, _, _ in begun])
    assert float((same - expected).norm() / expected.norm()) < tolerance
    records = {step: begun[0][1][step] | begun[1][1][step] for step in begun[0][1]}
    for counts in ([15, 14], [9, 0, 20]):
        for step in (1, 3, 4):
            parts = rank_pool.run(len(counts), run_with_checkpoints, what, counts, dtype, records, step)
            got = torch.cat([latents for latents, _, _ in parts])
            error = float((got - expected).norm() / expected.norm())
            assert error < tolerance, f"clips {counts} after step {step}: relative L2 error {error:.1e}"
            if counts == [15, 14]:
                assert torch.equal(got, same), f"clips {counts} after step {step}: bits differ"
