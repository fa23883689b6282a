"""Pieces of clips, halos and global frames, with and without cuts."""

from __future__ import annotations

import pytest

from vinf_core.context.pieces import (
    Piece,
    even_global_frames,
    global_frame_indices,
    halo_frames,
    pieces_of,
)
from vinf_core.types import Clip, TemporalScope

pytestmark = pytest.mark.fast

SCENES = (range(10), range(10, 12), range(12, 40))


@pytest.mark.parametrize(
    ("frames", "wanted", "expected"),
    [(16, 4, (2, 6, 10, 14)), (3, 8, (0, 1, 2)), (47, 1, (23,)), (10, 0, ()), (2304, 2, (576, 1728))],
)
def test_global_frames_sample_the_whole_video(frames: int, wanted: int, expected: tuple[int, ...]) -> None:
    assert global_frame_indices(range(frames), wanted) == expected


def test_global_frames_reach_both_ends() -> None:
    """The released Video-Infinity code never samples the tail; ours is symmetric."""
    indices = global_frame_indices(range(100), 16)
    assert indices[0] == 99 - indices[-1]
    assert len(indices) == 16


def test_a_clip_is_cut_where_the_video_is_cut() -> None:
    assert pieces_of(Clip(4, 20), SCENES) == (
        Piece(0, SCENES[0], range(4, 10)),
        Piece(1, SCENES[1], range(10, 12)),
        Piece(2, SCENES[2], range(12, 24)),
    )
    assert pieces_of(Clip(12, 0), SCENES) == ()


def test_halo_stays_inside_the_video_and_may_span_ranks() -> None:
    video = (range(9),)
    assert halo_frames(Clip(2, 1), video, 4) == frozenset(range(7))
    assert halo_frames(Clip(5, 0), video, 4) == frozenset()


def test_halo_stops_at_a_cut() -> None:
    assert halo_frames(Clip(8, 3), SCENES, 4) == frozenset(range(4, 12))


@pytest.mark.parametrize(
    ("across", "expected"), [(False, ((2, 7), (10, 11), (19, 33))), (True, ((10, 30), (10, 30), (10, 30)))]
)
def test_global_frames_of_a_scene_or_of_the_video(across: bool, expected: tuple[tuple[int, ...], ...]) -> None:
    scope = TemporalScope(local_window_frames=4, global_frames=2, global_across_cuts=across)
    assert even_global_frames(SCENES, scope) == expected
