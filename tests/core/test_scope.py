"""The dual scope as masks and blocks of queries."""

from __future__ import annotations

import math

import pytest
import torch

from vinf_core.context import blocks
from vinf_core.context.blocks import SINGLE_BLOCK, AttentionPlan
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.context.scope import Phase, scope_mask
from vinf_core.errors import InvalidSpecError
from vinf_core.types import TemporalScope

pytestmark = pytest.mark.fast

SCOPE = TemporalScope(local_window_frames=2, global_frames=2, phase_timestep=800, phase_bias=10.0)
LOCAL, GLOBAL = Phase(favours_global=False), Phase(favours_global=True)
HIDDEN = -math.inf


def seen(plan: AttentionPlan, frame_count: int) -> torch.Tensor:
    """Spread a plan's blocks out to logits ``[own frames, frames of the video]``."""
    queries = max(block.queries.stop for block in plan.blocks)
    logits = torch.full((queries, frame_count), HIDDEN)
    for block in plan.blocks:
        keys = list(range(len(plan.frames.frames)))[block.run] + ([] if block.others is None else block.others.tolist())
        frames = [plan.frames.frames[key] for key in keys]
        assert len(set(frames)) == len(frames), "a frame is a key twice"
        rows = range(block.queries.start, block.queries.stop)
        mask = torch.zeros(len(rows), len(frames)) if block.mask is None else block.mask
        for row, values in zip(rows, mask, strict=True):
            logits[row, frames] = values
    return logits


def dense(queries: range, frame_count: int, scope: TemporalScope, sampled: list[int], phase: Phase) -> torch.Tensor:
    return scope_mask(queries, torch.arange(frame_count), scope, torch.tensor(sampled, dtype=torch.int64), phase)


def test_mask_by_hand() -> None:
    # 8 frames, globals 2 and 6; the query is frame 3: neighbours 2 and 4, itself, and the globals.
    local_phase = dense(range(3, 4), 8, SCOPE, [2, 6], LOCAL)
    assert local_phase.tolist() == [[HIDDEN, HIDDEN, 10, 10, 10, HIDDEN, 0, HIDDEN]]
    global_phase = dense(range(3, 4), 8, SCOPE, [2, 6], GLOBAL)
    # Frame 2 is both: one key, with the larger bias in either phase.
    assert global_phase.tolist() == [[HIDDEN, HIDDEN, 10, 0, 0, HIDDEN, 10, HIDDEN]]


def test_what_the_phase_damps_can_be_left_out() -> None:
    only = Phase(favours_global=True, favoured_only=True)
    mask = dense(range(3, 4), 8, SCOPE, [2, 6], only)
    assert mask.tolist() == [[HIDDEN, HIDDEN, 0, HIDDEN, HIDDEN, HIDDEN, 0, HIDDEN]]
    layout = Layout.build(clips_of([60, 60]), 0, SCOPE, skip_negligible=True)
    assert layout.global_phase.frames.receives == ((1, 1),), "only global frame 90 comes from the other rank"
    assert layout.local_phase.frames.receives == ((1, 1),), "only neighbour 60 comes from the other rank"
    assert set(layout.local_phase.frames.frames) - set(range(60)) == {60}
    mild = TemporalScope(local_window_frames=2, global_frames=2, phase_timestep=800, phase_bias=2.0)
    assert Layout.build(clips_of([60, 60]), 0, mild, skip_negligible=True).global_phase.frames.frames[-2:] == (60, 90)


def test_every_query_sees_itself() -> None:
    alone = TemporalScope(local_window_frames=0, global_frames=0)
    mask = dense(range(4), 4, alone, [], GLOBAL)
    assert torch.equal(mask.isfinite(), torch.eye(4, dtype=torch.bool))


@pytest.mark.parametrize("phase", [LOCAL, GLOBAL], ids=["local", "global"])
@pytest.mark.parametrize("counts", [[250], [101, 48, 101], [0, 249, 1]], ids=str)
def test_blocks_say_what_the_dense_mask_says(counts: list[int], phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = TemporalScope(local_window_frames=6, global_frames=5, phase_timestep=1, phase_bias=3.0)
    sampled = [25, 75, 125, 175, 225]
    for rank, clip in enumerate(clips_of(counts)):
        if not clip.count:
            continue
        plan = AttentionPlan.build(
            clips_of(counts), rank, (range(250),), scope, phase, dtype=torch.float32, device="cpu"
        )
        assert max(block.queries.stop - block.queries.start for block in plan.blocks) <= SINGLE_BLOCK
        expected = dense(clip.frames, 250, scope, sampled, phase)
        assert torch.equal(seen(plan, 250), expected)
        monkeypatch.setattr(blocks, "KEPT_BYTES", 0)
        lazy = AttentionPlan.build(
            clips_of(counts), rank, (range(250),), scope, phase, dtype=torch.float32, device="cpu"
        )
        monkeypatch.undo()
        assert kept_bytes(lazy) == 0
        assert torch.equal(seen(lazy, 250), expected), "made anew in every attention, it is the same mask"


def kept_bytes(plan: AttentionPlan) -> int:
    """Bytes of the masks and indices that a plan holds, each once."""
    tensors = [tensor for block in plan.blocks for tensor in (block._mask, block._others) if tensor is not None]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def test_blocks_in_the_middle_of_a_clip_share_their_masks() -> None:
    def held(frames: int, window: int) -> int:
        scope = TemporalScope(local_window_frames=window, global_frames=8, phase_timestep=1, phase_bias=3.0)
        return kept_bytes(Layout.build(clips_of([frames]), 0, scope).local_phase)

    assert held(65_536, 16) < 1.1 * held(8192, 16), "masks must not grow with the video"
    for window in (1000, 8192, 100_000):
        assert held(32_768, window) <= blocks.KEPT_BYTES


@pytest.mark.parametrize("phase", [LOCAL, GLOBAL], ids=["local", "global"])
def test_any_frames_can_be_global_ones(phase: Phase) -> None:
    """Also neighbours of one another, the first one and the last one; of two scenes different ones."""
    scope = TemporalScope(local_window_frames=6, global_frames=4, phase_timestep=1, phase_bias=3.0)
    scenes, chosen = (range(130), range(130, 250)), ((0, 63, 64, 129), (131, 132, 249))
    for rank, clip in enumerate(clips_of([101, 48, 101])):
        layout = Layout.build(clips_of([101, 48, 101]), rank, scope, scenes=scenes).with_global_frames(chosen)
        logits = seen(layout.global_phase if phase.favours_global else layout.local_phase, 250)
        for frame, row in zip(clip.frames, logits, strict=True):
            scene = scenes[frame >= 130]
            expected = scope_mask(
                range(frame, frame + 1), torch.arange(250), scope, torch.tensor(chosen[frame >= 130]), phase, scene
            )
            assert torch.equal(row, expected[0])


def test_irregular_global_frames_take_hardly_more_memory() -> None:
    scope = TemporalScope(local_window_frames=16, global_frames=256, phase_timestep=1, phase_bias=3.0)
    layout = Layout.build(clips_of([32_768]), 0, scope)
    chosen = tuple(128 * index + 37 * index % 128 for index in range(256))
    assert kept_bytes(layout.with_global_frames((chosen,)).local_phase) <= blocks.KEPT_BYTES
    assert layout.with_global_frames((chosen,)).local_phase.frames.frames == tuple(range(32_768))


def test_scores_grow_with_the_clip_and_not_with_its_square() -> None:
    def scores(frames: int) -> int:
        plan = Layout.build(clips_of([frames]), 0, SCOPE).local_phase
        return sum(block.mask.numel() for block in plan.blocks if block.mask is not None)

    assert scores(4 * 640) < 1.01 * 4 * scores(640)


def test_nothing_is_seen_across_a_cut() -> None:
    scenes = (range(30), range(30, 100))
    scope = TemporalScope(local_window_frames=6, global_frames=5)
    plan = Layout.build(clips_of([50, 50]), 0, scope, scenes=scenes).local_phase
    logits = seen(plan, 100)
    assert not logits[:30, 30:].isfinite().any()
    assert not logits[30:, :30].isfinite().any()
    across = TemporalScope(local_window_frames=6, global_frames=5, global_across_cuts=True)
    logits = seen(Layout.build(clips_of([50, 50]), 0, across, scenes=scenes).local_phase, 100)
    assert (30 + logits[:30, 30:].isfinite().any(dim=0).nonzero().flatten()).tolist() == [30, 50, 70, 90]


def test_a_window_over_everything_needs_no_mask() -> None:
    everything = TemporalScope(local_window_frames=32, global_frames=0)
    (block,) = Layout.build(clips_of([8, 8]), 0, everything).local_phase.blocks
    assert block.mask is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("local_window_frames", 3), ("local_window_frames", -2), ("global_frames", -1), ("phase_bias", math.nan)],
)
def test_impossible_scopes_are_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidSpecError, match=field):
        TemporalScope(**({"local_window_frames": 16, "global_frames": 8} | {field: value}))
