"""Which frames are chosen as global ones, and how their features are measured."""

from __future__ import annotations

import math
from unittest.mock import Mock

import pytest
import torch

from vinf_core.context import key_frames
from vinf_core.context.clip_context import ClipContext
from vinf_core.context.key_frames import KeyFrames, choose_key_frames, frame_features
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.context.pieces import even_global_frames
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.errors import CheckpointError, InvalidSpecError
from vinf_core.events import StageClock
from vinf_core.types import GlobalChoice, TemporalScope

pytestmark = pytest.mark.fast


def scope(global_frames: int, *, across: bool = False) -> TemporalScope:
    return TemporalScope(
        local_window_frames=4,
        global_frames=global_frames,
        global_across_cuts=across,
        global_choice=GlobalChoice.KEY_FRAMES,
    )


def alone(frame_count: int, wanted: TemporalScope, scenes: tuple[range, ...] | None = None) -> ClipContext:
    context = ClipContext(Exchange(Topology.single(), None, StageClock(torch.device("cpu"))))
    context.begin_generation(Layout.build(clips_of([frame_count]), 0, wanted, scenes=scenes))
    return context


def features_of(maps: torch.Tensor, scenes: tuple[range, ...] | None = None) -> torch.Tensor:
    """Features of a video of one channel."""
    context = alone(len(maps), scope(1), scenes)
    return frame_features(maps[:, None], context.layout, context.exchange)


def test_entropy_is_that_of_the_levels() -> None:
    blank = torch.zeros(8, 8)
    halves = torch.zeros(8, 8)
    halves[4:] = 1.0  # four levels on
    between = torch.full((8, 8), 0.125)  # shared by two levels
    out_of_range = torch.full((8, 8), 1e6)
    entropy, _ = features_of(torch.stack([blank, halves, between, out_of_range]))
    expected = torch.tensor([0, math.log(2), math.log(2), 0], dtype=torch.float64)
    torch.testing.assert_close(entropy, expected, rtol=0, atol=1e-12)


def test_entropy_is_continuous() -> None:
    """What rounding moves over the border of a level must not show."""
    generator = torch.Generator().manual_seed(4)
    maps = torch.randn(5, 8, 8, dtype=torch.float64, generator=generator).mul(4).round().div(4)  # all on levels
    moved = maps + 1e-9 * torch.randn(maps.shape, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(features_of(moved), features_of(maps), rtol=0, atol=1e-6)


def test_channels_are_pooled() -> None:
    context = alone(2, scope(1))
    clean = torch.zeros(2, 4, 3, 3)
    clean[1, 0], clean[1, 1] = 5.0, -5.0
    assert torch.equal(frame_features(clean, context.layout, context.exchange), torch.zeros(2, 2, dtype=torch.float64))


def test_difference_is_to_the_frame_before_and_ends_at_a_cut() -> None:
    maps = torch.tensor([0.0, 0.5, 0.5, 1.5, 1.0])[:, None, None].expand(5, 4, 4)
    assert features_of(maps)[1].tolist() == pytest.approx([0, 0.5, 0, 1.0, 0.5])
    assert features_of(maps, (range(3), range(3, 5)))[1].tolist() == pytest.approx([0, 0.5, 0, 0, 0.5])
    assert features_of(maps[:1])[1].tolist() == [0]


def features(scores: list[float]) -> torch.Tensor:
    """Of frames whose whole score is their entropy."""
    return torch.tensor([scores, [0.0] * len(scores)], dtype=torch.float64)


def test_each_segment_gives_its_best_frame() -> None:
    scores = [0, 1, 0, 0, 0, 0, 0, 2, 3, 0.5, 0.6, 0]
    assert choose_key_frames(features(scores), (range(12),), scope(3)) == ((1, 7, 8),)


@pytest.mark.parametrize(("across", "expected"), [(False, ((2, 5), (6, 9))), (True, ((2, 9), (2, 9)))])
def test_segments_are_those_of_a_scene_or_of_the_video(across: bool, expected: tuple[tuple[int, ...], ...]) -> None:
    scores = [0, 0, 1, 0, 0, 2, 1, 0, 0, 3]
    scenes = (range(6), range(6, 10))
    assert choose_key_frames(features(scores), scenes, scope(2, across=across)) == expected


@pytest.mark.parametrize(("across", "stretches"), [(False, 3), (True, 1)])
def test_each_stretch_is_looked_at_once(monkeypatch: pytest.MonkeyPatch, across: bool, stretches: int) -> None:
    looked_at = Mock(wraps=key_frames._best_frames)
    monkeypatch.setattr(key_frames, "_best_frames", looked_at)
    scenes = (range(3), range(3, 7), range(7, 12))
    assert len(choose_key_frames(features([0.0] * 12), scenes, scope(2, across=across))) == len(scenes)
    assert looked_at.call_count == stretches


def test_the_first_frame_of_a_scene_differs_from_its_next_one() -> None:
    difference = [0.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 3.0]
    values = torch.tensor([[0.1, 0, 0, 0, 0.1, 0, 0.1, 0], difference], dtype=torch.float64)
    scenes = (range(5), range(5, 6), range(6, 8))
    assert choose_key_frames(values, scenes, scope(1)) == ((0,), (5,), (6,))


@pytest.mark.parametrize("frame_count", [1, 3, 8, 16, 47, 96])
def test_frames_that_are_alike_stay_evenly_spaced(frame_count: int) -> None:
    """Up to rounding; a video shorter than the global frames has each of its frames among them once."""
    generator = torch.Generator().manual_seed(2)
    values = 1.7 + 1e-6 * torch.randn(2, frame_count, dtype=torch.float64, generator=generator)
    scenes = (range(frame_count),)
    assert choose_key_frames(values, scenes, scope(8)) == even_global_frames(scenes, scope(8))


@pytest.mark.parametrize(
    ("dtype", "chosen"),
    [(torch.float64, (2, 9)), (torch.float32, (2, 9)), (torch.bfloat16, (3, 9)), (torch.float16, (3, 9))],
)
def test_half_precision_takes_more_scores_for_equal(dtype: torch.dtype, chosen: tuple[int, ...]) -> None:
    context = alone(12, scope(2))
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)).repeat(12, 1, 1, 1)
    clean[2:] += 0.002  # what rounding amounts to on other clips in half precision
    KeyFrames(context, dtype).step_ended(1, clean)
    assert context.layout.global_frames == (chosen,)


def test_values_that_are_not_finite_are_left_to_those_who_check_them() -> None:
    values = torch.full((2, 12), math.nan, dtype=torch.float64)
    assert choose_key_frames(values, (range(12),), scope(3)) == even_global_frames((range(12),), scope(3))


def test_frames_are_chosen_after_steps_one_two_four_and_so_on() -> None:
    context = alone(12, scope(2))
    chooser = KeyFrames(context, torch.float32)
    even = context.layout.global_frames
    chosen = []
    for step in range(1, 10):
        clean = torch.zeros(12, 4, 8, 8)
        clean[step, :, :4] = 1.0  # the frame that stands out, and the one behind it
        chooser.step_ended(step, clean)
        chosen.append(context.layout.global_frames)
    assert even == ((3, 9),)
    assert chosen[0] == ((1, 9),)
    assert chosen[1] == chosen[2] == ((2, 9),)
    assert chosen[3] == chosen[4] == chosen[5] == chosen[6] == ((4, 9),)
    assert chosen[7] == chosen[8] == ((3, 8),)
    sampled = context.layout.global_phase.blocks[0]._sight.sampled
    assert sampled == (3, 8), "attention sees what was chosen"


def test_what_was_chosen_can_be_resumed() -> None:
    scenes = (range(5), range(5, 12))
    context = alone(12, scope(2), scenes)
    context.choose_global_frames(((0, 4), (7, 11)))
    flags = KeyFrames(context, torch.float32).of_clip()
    assert [frame for frame, flag in enumerate(flags) if flag] == [0, 4, 7, 11]
    other = alone(12, scope(2), scenes)
    KeyFrames(other, torch.float32).resume(flags)
    assert other.layout.global_frames == ((0, 4), (7, 11))
    with pytest.raises(CheckpointError, match="is_key_frame"):
        KeyFrames(other, torch.float32).resume(None)


def test_key_frames_need_global_frames() -> None:
    with pytest.raises(InvalidSpecError, match="global_choice: key_frames has nothing to choose with global_frames 0"):
        scope(0)
