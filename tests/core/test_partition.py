"""Clips, halos and global frames."""

from __future__ import annotations

from itertools import pairwise

import pytest

from vinf_core.context.partition import (
    attention_frames,
    clips_of,
    global_frame_indices,
    halo_frames,
    partition,
)
from vinf_core.errors import InvalidSpecError
from vinf_core.types import Clip, TemporalScope

pytestmark = pytest.mark.fast


def test_clips_are_even_contiguous_and_cover_the_video() -> None:
    assert [c.count for c in partition(47, [1] * 4)] == [12, 12, 12, 11]
    clips = partition(47, [1] * 3)
    assert clips[0].start == 0
    assert clips[-1].stop == 47
    assert all(a.stop == b.start for a, b in pairwise(clips))


def test_with_fewer_frames_than_ranks_the_last_clips_are_empty() -> None:
    assert [c.count for c in partition(3, [1] * 4)] == [1, 1, 1, 0]


def test_negative_clip_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match="-1"):
        clips_of([3, -1])


@pytest.mark.parametrize(
    ("frames", "wanted", "expected"),
    [(16, 4, (2, 6, 10, 14)), (3, 8, (0, 1, 2)), (47, 1, (23,)), (10, 0, ()), (2304, 2, (576, 1728))],
)
def test_global_frames_sample_the_whole_video(frames: int, wanted: int, expected: tuple[int, ...]) -> None:
    assert global_frame_indices(frames, wanted) == expected


def test_global_frames_reach_both_ends() -> None:
    """The released Video-Infinity code never samples the tail; ours is symmetric."""
    indices = global_frame_indices(100, 16)
    assert indices[0] == 99 - indices[-1]
    assert len(indices) == 16


def test_halo_stays_inside_the_video_and_may_span_ranks() -> None:
    assert halo_frames(Clip(2, 1), 4, 9) == frozenset(range(7))
    assert halo_frames(Clip(5, 0), 4, 9) == frozenset()


def test_attention_sees_window_and_globals() -> None:
    scope = TemporalScope(local_window_frames=4, global_frames=2)
    assert attention_frames(Clip(0, 2), scope, 40) == frozenset({0, 1, 2, 3, 10, 30})
    assert attention_frames(Clip(7, 0), scope, 40) == frozenset()
