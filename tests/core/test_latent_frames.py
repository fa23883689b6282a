"""Frames and latent frames: one told from the other."""

from __future__ import annotations

import pytest

from tests.support.engine import spec
from vinf_core.errors import InvalidSpecError
from vinf_core.latent_frames import FrameGrid
from vinf_core.types import Clip, ImageCondition, PromptSegment, TemporalScope

pytestmark = pytest.mark.fast

FOUR = FrameGrid(4)


def test_latent_frame_0_is_frame_0_and_the_others_are_four() -> None:
    assert [FOUR.latent_of(frame) for frame in range(10)] == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert FOUR.frames_of(range(1)) == range(1)
    assert FOUR.frames_of(range(1, 3)) == range(1, 9)
    assert list(FOUR.frames_of(range(2, 2))) == []
    for count in (1, 5, 49, 97):
        latents = FOUR.latent_count(count)
        assert FOUR.frames_of(range(latents)) == range(count)
        assert {FOUR.latent_of(frame) for frame in range(count)} == set(range(latents))


@pytest.mark.parametrize(("count", "near"), [(2, (1, 5)), (4, (1, 5)), (48, (45, 49)), (49, (49,)), (1, (1,))])
def test_lengths_that_no_video_has_are_named_with_their_neighbours(count: int, near: tuple[int, ...]) -> None:
    assert FOUR.nearest(count) == near
    assert FOUR.fits(count) == (len(near) == 1)
    if len(near) > 1:
        with pytest.raises(InvalidSpecError, match=rf"frame_count: {count} .* nearest are {near[0]} or {near[1]}"):
            FOUR.latent_count(count)


def test_clips_there_and_back() -> None:
    for clip in (Clip(0, 1), Clip(0, 3), Clip(3, 4), Clip(5, 0), Clip(0, 0)):
        assert FOUR.clip_in_latents(FOUR.clip_in_frames(clip)) == clip
    assert FOUR.clip_in_frames(Clip(0, 3)) == Clip(0, 9)
    with pytest.raises(InvalidSpecError, match="frames 0 to 5 divides a latent frame of 4"):
        FOUR.clip_in_latents(Clip(0, 6))


def test_a_specification_in_latent_frames() -> None:
    scope = TemporalScope(local_window_frames=18, global_frames=10)
    image = ImageCondition(0, bytes(64 * 64 * 3))
    what = spec(frame_count=97, width=64, height=64, scope=scope, images=(image,))
    inside = FOUR.spec_in_latents(what)
    assert inside.frame_count == 25
    assert (inside.scope.half_window, inside.scope.global_frames) == (3, 3)
    assert not inside.images
    assert FrameGrid().spec_in_latents(what) is what


def test_segments_start_with_the_latent_frame_that_holds_their_first_frame() -> None:
    def inside(*segments: PromptSegment) -> list[tuple[int, int, bool, str]]:
        made = FOUR.spec_in_latents(spec(frame_count=33, segments=segments)).segments
        return [(each.start_frame, each.transition_frames, each.cut, each.prompt) for each in made]

    assert inside(PromptSegment(start_frame=9, prompt="a", cut=True)) == [(3, 0, True, "a")]
    assert inside(PromptSegment(start_frame=12, prompt="a", transition_frames=6)) == [(3, 3, False, "a")]
    both = PromptSegment(start_frame=9, prompt="a", cut=True), PromptSegment(start_frame=11, prompt="b")
    assert inside(*both) == [(3, 0, True, "b")]
    long = PromptSegment(start_frame=1, prompt="a", transition_frames=6), PromptSegment(start_frame=8, prompt="b")
    assert inside(*long) == [(1, 1, False, "a"), (2, 0, False, "b")]
