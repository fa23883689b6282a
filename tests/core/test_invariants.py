"""Architecture invariants 1 and 2: the number of ranks never shows, and with a full window we equal stock diffusers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.support.engine import call_unet, final_latents, spec, unet_inputs, whole_video
from tests.support.ranks import RankPool
from tests.support.tiny import tiny_unet
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.events import StageClock
from vinf_core.models.text_to_video import find_temporal_sites
from vinf_core.types import Solver, TemporalScope

pytestmark = pytest.mark.process

SCOPE = TemporalScope(local_window_frames=16, global_frames=16, phase_timestep=500, phase_bias=10.0)
PARTITIONS = [[47], [24, 23], [10, 21, 16], [12, 12, 12, 11], [2, 1, 3, 41], [0, 46, 1, 0]]
FEW_FRAMES = [[3], [1, 1, 1, 0], [0, 2, 0, 1], [5], [2, 1, 1, 1], [1, 0, 4]]
ALONE = (Topology.single(), Groups(control=None, data=None))


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("timestep", [900.0, 100.0], ids=["global phase", "local phase"])
def test_unet_call_is_the_same_on_every_partition(rank_pool: RankPool, timestep: float) -> None:
    for counts in PARTITIONS + FEW_FRAMES:
        expected = call_unet(*ALONE, [sum(counts)], SCOPE, timestep)
        parts = rank_pool.run(len(counts), call_unet, counts, SCOPE, timestep)
        error = relative(torch.cat(parts, dim=2), expected)
        assert error < 1e-12, f"clips {counts}: relative L2 error {error:.1e}, expected below 1e-12"


@pytest.mark.parametrize("counts", [[9], [5, 4], [2, 4, 3]], ids=str)
def test_full_window_without_globals_equals_stock_diffusers(rank_pool: RankPool, counts: list[int]) -> None:
    frames = sum(counts)
    video, text = unet_inputs(frames)
    with torch.inference_mode():
        expected = tiny_unet()(video, torch.tensor(321), text).sample
    everything = TemporalScope(local_window_frames=2 * frames, global_frames=0)
    parts = rank_pool.run(len(counts), call_unet, counts, everything, 321.0)
    error = relative(torch.cat(parts, dim=2), expected)
    assert error < 1e-12, f"relative L2 error {error:.1e} to stock diffusers, expected below 1e-12"


def test_scenes_are_videos_of_their_own(rank_pool: RankPool) -> None:
    """Windows, halos, norms and global frames end at a cut; on any number of ranks."""
    scenes = (range(20), range(20, 23), range(23, 47))
    alone = [call_unet(*ALONE, [len(scene)], SCOPE, 100.0, first=scene.start) for scene in scenes]
    expected = torch.cat(alone, dim=2)
    for counts in PARTITIONS:
        parts = rank_pool.run(len(counts), partial(call_unet, scenes=scenes), counts, SCOPE, 100.0)
        error = relative(torch.cat(parts, dim=2), expected)
        assert error < 1e-12, f"clips {counts}: relative L2 error {error:.1e}, expected below 1e-12"


@pytest.mark.parametrize("timestep", [900.0, 100.0], ids=["global phase", "local phase"])
def test_global_frames_across_cuts_are_the_same_on_every_partition(rank_pool: RankPool, timestep: float) -> None:
    scenes = (range(20), range(20, 47))
    across = replace(SCOPE, global_across_cuts=True)
    expected = call_unet(*ALONE, [47], across, timestep, scenes=scenes)
    assert relative(call_unet(*ALONE, [47], SCOPE, timestep, scenes=scenes), expected) > 1e-7, "the option does nothing"
    for counts in ([24, 23], [10, 21, 16]):
        parts = rank_pool.run(len(counts), partial(call_unet, scenes=scenes), counts, across, timestep)
        assert relative(torch.cat(parts, dim=2), expected) < 1e-12
    skipped = call_unet(*ALONE, [47], across, timestep, scenes=scenes, skip_negligible=True)
    assert relative(skipped, expected) < 1e-3, "a global frame beyond a cut is nobody's neighbour"


@pytest.mark.parametrize("timestep", [900.0, 100.0], ids=["global phase", "local phase"])
def test_without_negligible_context_every_partition_is_the_same(rank_pool: RankPool, timestep: float) -> None:
    exact = call_unet(*ALONE, [47], SCOPE, timestep)
    expected = call_unet(*ALONE, [47], SCOPE, timestep, skip_negligible=True)
    assert 0 < relative(expected, exact) < 1e-3, "leaving out what weighs e^-10 must show, but hardly"
    for counts in ([24, 23], [10, 21, 16], [0, 46, 1, 0]):
        parts = rank_pool.run(len(counts), partial(call_unet, skip_negligible=True), counts, SCOPE, timestep)
        assert relative(torch.cat(parts, dim=2), expected) < 1e-12


@pytest.mark.parametrize("slice_bytes", [1, 3000, 40_000])
def test_slices_do_not_show(rank_pool: RankPool, slice_bytes: int) -> None:
    expected = call_unet(*ALONE, [47], SCOPE, 100.0)
    for counts in ([47], [10, 21, 16]):
        parts = rank_pool.run(len(counts), partial(call_unet, slice_bytes=slice_bytes), counts, SCOPE, 100.0)
        error = relative(torch.cat(parts, dim=2), expected)
        assert error < 1e-12, f"clips {counts}: relative L2 error {error:.1e}, expected below 1e-12"


def test_the_scope_matters(rank_pool: RankPool) -> None:
    """The tests above have power: a narrower window, fewer globals or no bias all change the result visibly."""
    expected = call_unet(*ALONE, [47], SCOPE, 100.0)
    for other in (
        TemporalScope(local_window_frames=8, global_frames=16, phase_timestep=500, phase_bias=10.0),
        TemporalScope(local_window_frames=16, global_frames=4, phase_timestep=500, phase_bias=0.0),
        TemporalScope(local_window_frames=16, global_frames=16),
    ):
        assert relative(call_unet(*ALONE, [47], other, 100.0), expected) > 1e-4, f"{other} changes nothing"


@pytest.mark.parametrize(
    ("solver", "dtype", "tolerance"),
    [
        (Solver.DDIM, torch.float64, 1e-12),
        (Solver.DDIM, torch.float32, 1e-4),
        (Solver.DPM_SOLVER_PP_2M, torch.float32, 1e-4),
    ],
    ids=["ddim-float64", "ddim-float32", "dpm++-float32"],
)
def test_final_latents_are_the_same_on_every_partition(
    rank_pool: RankPool, solver: Solver, dtype: torch.dtype, tolerance: float
) -> None:
    for counts in ([24, 23], [10, 21, 16], [12, 12, 12, 11], [3, 0, 44, 0]):
        what = spec(frame_count=47, solver=solver, step_count=4)
        expected = final_latents(*ALONE, what, [47], dtype)
        parts = rank_pool.run(len(counts), final_latents, what, counts, dtype)
        error = relative(torch.cat(parts), expected)
        assert error < tolerance, f"clips {counts}: relative L2 error {error:.1e}, expected below {tolerance}"


@pytest.mark.parametrize("frame_count", [3, 5, 30])
def test_pictures_are_the_same_on_any_number_of_ranks(rank_pool: RankPool, frame_count: int) -> None:
    what = spec(frame_count=frame_count)
    expected = whole_video(*ALONE, what)
    for world_size in (2, 3, 4):
        parts = rank_pool.run(world_size, whole_video, what)
        frames = {index: pixels for part in parts for index, pixels in part.items()}
        assert sorted(frames) == list(range(frame_count)), f"{world_size} ranks delivered {sorted(frames)}"
        assert sum(len(part) for part in parts) == frame_count, "a frame was delivered twice"
        worst = max(abs(frames[i].astype(int) - expected[i].astype(int)).max() for i in range(frame_count))
        assert worst <= 2, f"{world_size} ranks: pixels differ by {worst} of 255, expected at most 2"


def traffic(topology: Topology, groups: Groups, counts: list[int]) -> tuple[int, int]:
    """Exchanges and reductions of one UNet call on this rank."""
    counter = Exchange(topology, groups.data, StageClock(topology.device))
    call_unet(topology, groups, counts, SCOPE, 100.0, exchange=counter)
    return counter.exchange_count, counter.reduction_count


def test_one_exchange_a_site_and_one_reduction_a_norm(rank_pool: RankPool) -> None:
    sites = find_temporal_sites(tiny_unet())
    exchanges = 2 * len(sites.transformers) + len(sites.convolutions)
    reductions = len(sites.transformers) + 4 * len(sites.convolutions)
    assert rank_pool.run(3, traffic, [10, 21, 16]) == [(exchanges, reductions)] * 3
    idle = rank_pool.run(3, traffic, [24, 0, 23])
    assert [counted for _, counted in idle] == [reductions] * 3, "a rank without frames must join every reduction"
