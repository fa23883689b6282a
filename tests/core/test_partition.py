"""Clips, halos and global frames."""

from __future__ import annotations

from itertools import pairwise

import pytest

from vinf_core.context.partition import clips_of, partition
from vinf_core.errors import InvalidSpecError

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
