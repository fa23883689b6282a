"""Which position a frame has for which query."""

from __future__ import annotations

import pytest
import torch

from vinf_core.context.blocks import AttentionPlan
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.types import TemporalScope

pytestmark = pytest.mark.fast

TRAINED = 16
SCOPE = TemporalScope(local_window_frames=8, global_frames=8)
LOCAL = TemporalScope(local_window_frames=12, global_frames=0)
WIDE = TemporalScope(local_window_frames=200, global_frames=40)
SAMPLED = TemporalScope(local_window_frames=2, global_frames=300)


def plan(counts: list[int], scope: TemporalScope, rank: int = 0, scenes: tuple[range, ...] = ()) -> AttentionPlan:
    return Layout.build(clips_of(counts), rank, scope, scenes=scenes or None, position_count=TRAINED).local_phase


def positions_of(plan: AttentionPlan, start: int = 0) -> dict[int, tuple[int, dict[int, int]]]:
    """For every query of a clip that begins at ``start`` its own position and those of the frames it sees."""
    found = {}
    for block in plan.blocks:
        assert block.positions is not None
        of_queries, of_keys = block.positions
        keys = list(range(len(plan.frames.frames)))[block.run] + ([] if block.others is None else block.others.tolist())
        mask = torch.zeros(len(of_queries), len(keys)) if block.mask is None else block.mask
        for query, own, row in zip(range(*block.queries.indices(10**6)), of_queries.tolist(), mask, strict=True):
            seen = {
                plan.frames.frames[key]: position
                for key, position, logit in zip(keys, of_keys.tolist(), row.tolist(), strict=True)
                if logit > -torch.inf
            }
            found[start + query] = (own, seen)
    return found


def test_a_video_of_the_trained_length_has_the_positions_of_training() -> None:
    for query, (own, seen) in positions_of(plan([16], SCOPE)).items():
        assert own == query
        assert all(frame == position for frame, position in seen.items())
    everything = positions_of(plan([16], TemporalScope(local_window_frames=32, global_frames=0)))
    assert everything == {frame: (frame, {other: other for other in range(16)}) for frame in range(16)}


def test_by_hand_in_the_middle_of_a_long_video() -> None:
    """Frames 96 to 99 of 192 see neighbours, and frame 12, 36 … 180: two positions at each end hold what is far."""
    found = positions_of(plan([192], SCOPE))
    assert [found[frame][0] for frame in range(96, 100)] == [6, 7, 8, 9]
    near = dict(zip(range(93, 102), range(3, 12), strict=True))
    assert found[97][1] == {12: 0, 36: 0, 60: 1, 84: 1} | near | {108: 14, 132: 14, 156: 15, 180: 15}


def test_by_hand_at_the_ends() -> None:
    found = positions_of(plan([192], SCOPE))
    assert [found[frame][0] for frame in (0, 1, 7, 8)] == [0, 1, 7, 6]
    near = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 12: 12}
    assert found[0][1] == near | {36: 14, 60: 14, 84: 14, 108: 15, 132: 15, 156: 15, 180: 15}
    assert [found[frame][0] for frame in (183, 184, 190, 191)] == [9, 8, 14, 15]


def test_a_window_of_the_trained_length_is_never_squeezed() -> None:
    for own, seen in positions_of(plan([100], LOCAL)).values():
        frames = sorted(seen)
        assert [seen[frame] for frame in frames] == list(range(seen[frames[0]], seen[frames[0]] + len(frames)))
        assert own in seen.values()


@pytest.mark.parametrize("scope", [SCOPE, LOCAL, WIDE, SAMPLED], ids=["dual", "local", "wide", "sampled"])
@pytest.mark.parametrize("frames", [17, 64, 320])
def test_positions_keep_the_order_and_the_trained_length(scope: TemporalScope, frames: int) -> None:
    for query, (own, seen) in positions_of(plan([frames], scope)).items():
        in_order = [seen[frame] for frame in sorted(seen)]
        assert in_order == sorted(in_order)
        assert 0 <= in_order[0] <= in_order[-1] < TRAINED
        assert own == seen.get(query, own)
        assert seen.get(query + 1, own + 1) == own + 1, "next to a query nothing is squeezed"


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("counts", [[50, 50], [1, 30, 0, 69], [3, 97]], ids=str)
def test_they_do_not_depend_on_the_clips(counts: list[int], across: bool) -> None:
    scope = TemporalScope(local_window_frames=8, global_frames=6, global_across_cuts=across)
    scenes = (range(10), range(10, 41), range(41, 100))
    expected = positions_of(plan([100], scope, scenes=scenes))
    got = {}
    for rank, clip in enumerate(clips_of(counts)):
        got |= positions_of(plan(counts, scope, rank, scenes), clip.start)
    assert got == expected


def test_positions_are_kept_only_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = positions_of(plan([100], SCOPE))
    monkeypatch.setattr("vinf_core.context.blocks.KEPT_BYTES", 0)
    lazy = plan([100], SCOPE)
    assert all(block._positions is None for block in lazy.blocks)
    assert positions_of(lazy) == expected


def test_without_positions_there_are_none() -> None:
    blocks = Layout.build(clips_of([300]), 0, SCOPE).local_phase.blocks
    assert {block.positions for block in blocks} == {None}
    assert len(blocks) == 10
