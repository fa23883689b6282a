"""Attentions that know positions: equal to stock where stock can do it, and the same on any number of ranks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from tests.support.animatediff import tiny_motion_unet
from tests.support.engine import call_unet, unet_inputs
from tests.support.ranks import RankPool
from vinf_core.context import attention
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.types import TemporalScope

pytestmark = pytest.mark.process

TRAINED = 8
SCOPE = TemporalScope(local_window_frames=6, global_frames=5, phase_timestep=500, phase_bias=10.0)
PARTITIONS = [[24, 23], [10, 21, 16], [2, 1, 3, 41], [0, 46, 1, 0]]
ALONE = (Topology.single(), Groups(control=None, data=None))

call = partial(call_unet, build=tiny_motion_unet, trained_frame_count=TRAINED)


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def check_partitions(rank_pool: RankPool, expected: torch.Tensor, *arguments: Any, **options: Any) -> None:
    for counts in PARTITIONS:
        parts = rank_pool.run(len(counts), partial(call, **options), counts, *arguments)
        error = relative(torch.cat(parts, dim=2), expected)
        assert error < 1e-12, f"clips {counts}: relative L2 error {error:.1e}, expected below 1e-12"


@pytest.mark.parametrize("counts", [[8], [3, 5], [2, 0, 1, 4], [1]], ids=str)
def test_a_window_over_a_trained_length_equals_stock_diffusers(rank_pool: RankPool, counts: list[int]) -> None:
    frames = sum(counts)
    video, text = unet_inputs(frames)
    with torch.inference_mode():
        expected = tiny_motion_unet()(video, torch.tensor(321), text.repeat_interleave(frames, dim=0)).sample
    everything = TemporalScope(local_window_frames=2 * frames, global_frames=0)
    parts = rank_pool.run(len(counts), call, counts, everything, 321.0)
    error = relative(torch.cat(parts, dim=2), expected)
    assert error < 1e-12, f"relative L2 error {error:.1e} to stock diffusers, expected below 1e-12"


@pytest.mark.parametrize("timestep", [900.0, 100.0], ids=["global phase", "local phase"])
def test_a_long_video_is_the_same_on_every_partition(rank_pool: RankPool, timestep: float) -> None:
    check_partitions(rank_pool, call(*ALONE, [47], SCOPE, timestep), SCOPE, timestep)


@pytest.mark.parametrize("across", [False, True], ids=["globals of the scene", "globals of the video"])
def test_scenes_are_the_same_on_every_partition(rank_pool: RankPool, across: bool) -> None:
    scenes = (range(20), range(20, 26), range(26, 47))
    scope = replace(SCOPE, global_across_cuts=across)
    expected = call(*ALONE, [47], scope, 100.0, scenes=scenes)
    check_partitions(rank_pool, expected, scope, 100.0, scenes=scenes)
    alone = [call(*ALONE, [len(scene)], scope, 100.0, first=scene.start) for scene in scenes]
    assert (relative(torch.cat(alone, dim=2), expected) < 1e-12) == (not across), "scenes are videos of their own"


def test_without_globals_and_in_slices_it_is_the_same_on_every_partition(rank_pool: RankPool) -> None:
    local = replace(SCOPE, global_frames=0)
    check_partitions(rank_pool, call(*ALONE, [47], local, 100.0), local, 100.0, slice_bytes=3000)


def test_without_negligible_context_it_is_nearly_the_same(rank_pool: RankPool) -> None:
    """What is left out does not move the positions of what is seen."""
    for timestep in (900.0, 100.0):
        expected = call(*ALONE, [47], SCOPE, timestep, skip_negligible=True)
        assert 0 < relative(expected, call(*ALONE, [47], SCOPE, timestep)) < 1e-3
        check_partitions(rank_pool, expected, SCOPE, timestep, skip_negligible=True)


def test_positions_matter() -> None:
    """The tests above have power: with all frames at one position the result is another one."""
    expected = call(*ALONE, [8], SCOPE, 100.0)

    def without_positions() -> torch.nn.Module:
        unet = tiny_motion_unet()
        for name, table in unet.named_buffers():
            if name.endswith("pos_embed.pe"):
                table[:] = table[:, :1].clone()
        return unet

    assert relative(call(*ALONE, [8], SCOPE, 100.0, build=without_positions), expected) > 1e-3


@pytest.mark.parametrize("times", [4, 20])
@pytest.mark.parametrize("scope", [SCOPE, TemporalScope(local_window_frames=40, global_frames=0)], ids=["dual", "wide"])
def test_no_position_beyond_the_trained_ones_is_ever_read(
    monkeypatch: pytest.MonkeyPatch, times: int, scope: TemporalScope
) -> None:
    """Rows of the table that were never trained hold NaN here; and every position that was used is noted."""
    read: list[tuple[list[int], list[int]]] = []
    attend = attention._attend_block

    def noting(query: Any, key: Any, value: Any, block: Any, *rest: Any) -> torch.Tensor:
        of_queries, of_keys = block.positions
        read.append((of_queries.tolist(), of_keys.tolist()))
        return attend(query, key, value, block, *rest)

    def poisoned() -> torch.nn.Module:
        unet = tiny_motion_unet()
        for name, table in unet.named_buffers():
            if name.endswith("pos_embed.pe"):
                assert table.shape[1] > TRAINED
                table[:, TRAINED:] = torch.nan
        return unet

    monkeypatch.setattr(attention, "_attend_block", noting)
    out = call(*ALONE, [times * TRAINED], scope, 100.0, build=poisoned)
    assert out.isfinite().all()
    used = {position for pair in read for positions in pair for position in positions}
    assert used == set(range(TRAINED)), "all trained positions, and no others"
