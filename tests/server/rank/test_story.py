"""A timeline that the front lets pass is one that the core can make, and the other way round."""

from __future__ import annotations

import random

import pytest

from tests.server.fakes import model_limits
from vinf.v1 import generation_pb2
from vinf_core.errors import InvalidSpecError
from vinf_core.types import GenerationSpec, PromptSegment, TemporalScope
from vinf_server.front.rpc.spec import SpecValidator

pytestmark = pytest.mark.fast


def front_takes(segments: list[tuple[int, int, bool]], frame_count: int) -> bool:
    validator = SpecValidator(model_limits())
    validator.check(
        generation_pb2.GenerationSpec(
            prompt="a red circle",
            frame_count=frame_count,
            prompt_segments=[
                generation_pb2.PromptSegment(
                    start_frame_index=start, prompt="a blue square", transition_frame_count=transition, cut=cut
                )
                for start, transition, cut in segments
            ],
        )
    )
    return not validator.violations


def core_takes(segments: list[tuple[int, int, bool]], frame_count: int) -> bool:
    try:
        GenerationSpec(
            prompt="a red circle",
            frame_count=frame_count,
            width=64,
            height=64,
            seed=0,
            step_count=1,
            guidance_scale=1.0,
            scope=TemporalScope(local_window_frames=0, global_frames=0),
            segments=tuple(
                PromptSegment(start_frame=start, prompt="a blue square", transition_frames=transition, cut=cut)
                for start, transition, cut in segments
            ),
        )
    except InvalidSpecError:
        return False
    return True


def test_front_and_core_agree_on_timelines() -> None:
    noise = random.Random(5)
    verdicts = []
    for _ in range(3000):
        frame_count = noise.randrange(1, 12)
        starts = [noise.randrange(-1, 13) for _ in range(noise.randrange(4))]
        if noise.random() < 0.7:
            starts.sort()
        segments = [(start, noise.choice((0, 0, 1, 2, 5, -1)), noise.random() < 0.2) for start in starts]
        verdict = core_takes(segments, frame_count)
        assert front_takes(segments, frame_count) is verdict, f"{segments} in {frame_count} frames: core says {verdict}"
        verdicts.append(verdict)
    assert 300 < sum(verdicts) < 2700, "the test has no power"
