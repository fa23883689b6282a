"""The timeline of a story at the edges of its rules."""

from __future__ import annotations

import pytest

from tests.server.fakes import memory_model, model_limits
from vinf.v1 import generation_pb2, video_generation_service_pb2
from vinf_server.front.errors import InvalidFieldsError
from vinf_server.front.rpc.errors import MAX_DETAILS_BYTES, to_wire
from vinf_server.front.rpc.spec import MAX_SEGMENTS
from vinf_server.front.rpc.validation import check_create

pytestmark = pytest.mark.fast

Scope = generation_pb2.TemporalScope


def segment(start, transition=0, *, cut=False, prompt="a blue square"):
    return generation_pb2.PromptSegment(
        start_frame_index=start, prompt=prompt, transition_frame_count=transition, cut=cut
    )


def check(*segments, frame_count=48, **fields):
    spec = generation_pb2.GenerationSpec(
        prompt="a red circle", frame_count=frame_count, prompt_segments=segments, **fields
    )
    return check_create(
        video_generation_service_pb2.CreateGenerationRequest(spec=spec), model_limits(), memory_model()
    )[0]


def violated(*segments, **fields) -> dict[str, str]:
    with pytest.raises(InvalidFieldsError) as caught:
        check(*segments, **fields)
    assert len(to_wire(caught.value).trailers[0][1]) <= MAX_DETAILS_BYTES
    return {
        violation.field.removeprefix("spec.prompt_segments"): violation.description
        for violation in caught.value.violations
    }


def test_segments_are_echoed_trimmed():
    resolved = check(segment(8, 4, prompt="  a blue square "), segment(20, cut=True, prompt="a red square\n"))
    assert list(resolved.prompt_segments) == [
        segment(8, 4, prompt="a blue square"),
        segment(20, cut=True, prompt="a red square"),
    ]
    request = video_generation_service_pb2.CreateGenerationRequest(spec=resolved)
    assert check_create(request, model_limits(), memory_model())[0] == resolved


@pytest.mark.parametrize(
    "segments",
    [
        [segment(1)],
        [segment(47)],
        [segment(47, 1)],
        [segment(1, 47)],
        [segment(1), segment(2), segment(3)],
        [segment(10, 10), segment(20, 28)],
        [segment(10, cut=True), segment(11, 1), segment(12, cut=True)],
        [segment(start) for start in range(1, 48)],
    ],
)
def test_timeline_within_its_rules(segments):
    assert list(check(*segments).prompt_segments) == segments


START = "must be in [1, 47], got "


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([segment(0)], {"[0].start_frame_index": START + "0"}),
        ([segment(-1)], {"[0].start_frame_index": START + "-1"}),
        ([segment(48)], {"[0].start_frame_index": START + "48"}),
        ([segment(2**63 - 1)], {"[0].start_frame_index": START + str(2**63 - 1)}),
        (
            [segment(20), segment(20)],
            {"[1].start_frame_index": "must be in [21, 47], after the start of the segment before it at 20, got 20"},
        ),
        (
            [segment(20), segment(10), segment(30)],
            {"[1].start_frame_index": "must be in [21, 47], after the start of the segment before it at 20, got 10"},
        ),
        ([segment(47), segment(47)], {"[1].start_frame_index": "has no frame left behind frame 47, got 47"}),
        (
            [segment(10, 11), segment(20)],
            {
                "[0].transition_frame_count": "must be in [0, 10] frames, because the next segment starts at frame 20, "
                "got 11"
            },
        ),
        (
            [segment(40, 9)],
            {"[0].transition_frame_count": "must be in [0, 8] frames, because the video ends at frame 48, got 9"},
        ),
        (
            [segment(40, -1)],
            {"[0].transition_frame_count": "must be in [0, 8] frames, because the video ends at frame 48, got -1"},
        ),
        (
            [segment(40, 3, cut=True)],
            {"[0].transition_frame_count": "must be 0, because the segment begins with a cut, got 3"},
        ),
        (
            [segment(1, prompt="  ")],
            {"[0].prompt": "must have 1 to 200 characters without surrounding white space, got 0"},
        ),
    ],
)
def test_broken_rule_is_named_with_its_place(segments, expected):
    assert violated(*segments) == expected


def test_segments_speak_the_models_words():
    ((path, text),) = violated(segment(5), segment(9, prompt="a red dragon")).items()
    assert path == "[1].prompt"
    assert "'dragon'; it knows: a, red, blue" in text


def test_starts_are_judged_by_the_resolved_frame_count():
    assert violated(segment(16), frame_count=0) == {"[0].start_frame_index": "must be in [1, 15], got 16"}
    assert violated(segment(1), frame_count=1) == {"[0].start_frame_index": "has no frame left behind frame 0, got 1"}


def test_a_wrong_frame_count_does_not_make_good_segments_wrong():
    assert list(violated(segment(100, 30), frame_count=-1)) == ["spec.frame_count"]
    assert list(violated(segment(100, 30), segment(100), frame_count=4097)) == [
        "spec.frame_count",
        "[1].start_frame_index",
    ]


@pytest.mark.parametrize("extra", [0, 1])
def test_number_of_segments(extra):
    segments = [segment(start) for start in range(1, MAX_SEGMENTS + 1 + extra)]
    if extra:
        assert violated(*segments, frame_count=96) == {"": "must be at most 64 segments, got 65"}
    else:
        assert len(check(*segments, frame_count=96).prompt_segments) == MAX_SEGMENTS


def test_everything_wrong_comes_at_once():
    violations = violated(segment(0, -1, prompt=""), segment(48, 2, cut=True, prompt="fog"), seed=-1, frame_count=48)
    assert sorted(violations) == [
        "[0].prompt",
        "[0].start_frame_index",
        "[0].transition_frame_count",
        "[1].prompt",
        "[1].start_frame_index",
        "[1].transition_frame_count",
        "spec.seed",
    ]


@pytest.mark.parametrize(("mode", "read"), [(2, True), (1, False), (0, False)])
def test_globals_across_cuts_are_read_in_a_custom_scope_only(mode, read):
    scope = check(temporal_scope=Scope(mode=mode, global_across_cuts=True)).temporal_scope
    assert scope.global_across_cuts is read
