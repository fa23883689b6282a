"""Segments of a story through the SDK: what is sent, what is refused, what comes back."""

import grpc
import numpy as np
import pytest

from tests.client.fakes import Failure
from vinf.v1 import generation_pb2 as pb
from vinf_client import InvalidRequestError, PromptSegment, Violation

pytestmark = pytest.mark.fast

STORY = [PromptSegment(48, "a star", transition_frames=16), PromptSegment(72, "a box", cut=True)]
SENT = [
    pb.PromptSegment(start_frame_index=48, prompt="a star", transition_frame_count=16),
    pb.PromptSegment(start_frame_index=72, prompt="a box", cut=True),
]


@pytest.mark.parametrize("kind", [list, tuple])
def test_segments_are_sent(client, server, kind):
    client.submit("a red ball", segments=kind(STORY))
    assert server.creates[0].spec == pb.GenerationSpec(prompt="a red ball", prompt_segments=SENT)


def test_numpy_numbers_are_numbers(client, server):
    client.submit("a red ball", segments=[PromptSegment(np.int64(48), "a star", transition_frames=np.int32(16))])
    assert list(server.creates[0].spec.prompt_segments) == SENT[:1]


@pytest.mark.parametrize("none", [None, [], ()])
def test_without_segments_nothing_is_sent(client, server, none):
    client.submit("a red ball", segments=none)
    assert server.creates[0].spec == pb.GenerationSpec(prompt="a red ball")


def test_segments_come_back(client, server):
    server.segments = SENT
    assert client.submit("a red ball").generation.spec.prompt_segments == tuple(STORY)
    server.segments = ()
    assert client.submit("a red ball").generation.spec.prompt_segments == ()


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ("a star", "segments: must be a list of PromptSegment, got 'a star'"),
        (7, "segments: must be a list of PromptSegment, got 7"),
        ([(48, "a star")], "segments[0]: must be a PromptSegment, got (48, 'a star')"),
        ([PromptSegment(0, "a")], "segments[0].start_frame: 0 is not allowed; allowed: at least 1"),
        ([PromptSegment(2**63, "a")], f"segments[0].start_frame: {2**63} is not allowed; allowed: at least 1"),
        ([PromptSegment(1.5, "a")], "segments[0].start_frame: must be a whole number, got 1.5"),
        ([PromptSegment(True, "a")], "segments[0].start_frame: must be a whole number, got True"),
        ([PromptSegment(None, "a")], "segments[0].start_frame: must be a whole number, got None"),
        ([PromptSegment(3, "a", -1)], "segments[0].transition_frames: -1 is not allowed; allowed: at least 0"),
        ([PromptSegment(3, "a", None)], "segments[0].transition_frames: must be a whole number, got None"),
        ([PromptSegment(3, "a", cut=1)], "segments[0].cut: must be True or False, got 1"),
        ([STORY[0], PromptSegment(50, " ")], "segments[1].prompt: must not be empty; allowed: [1, 200] characters"),
        ([PromptSegment(3, None)], "segments[0].prompt: must be text, got None"),
        ([PromptSegment(3, "\udcff")], "segments[0].prompt: is not valid Unicode text"),
    ],
)
def test_what_the_wire_cannot_carry_is_refused(client, server, segments, words):
    with pytest.raises(InvalidRequestError) as caught:
        client.submit("a red ball", segments=segments)
    assert str(caught.value) == words
    assert all(request.validate_only for request in server.creates)


def test_the_servers_violations_come_beside_ours(client, server):
    server.validate_failure = Failure(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", violations=(("spec.prompt", "is too long"),)
    )
    with pytest.raises(InvalidRequestError) as caught:
        client.submit("a red ball", segments=[PromptSegment(0, "a star")])
    assert [violation.argument for violation in caught.value.violations] == ["segments[0].start_frame", "prompt"]


@pytest.mark.parametrize(
    ("path", "argument"),
    [
        ("spec.prompt_segments", "segments"),
        ("spec.prompt_segments[3]", "segments[3]"),
        ("spec.prompt_segments[12].start_frame_index", "segments[12].start_frame"),
        ("spec.prompt_segments[0].transition_frame_count", "segments[0].transition_frames"),
        ("spec.prompt_segments[0].prompt", "segments[0].prompt"),
        ("spec.prompt_segments[0].newer_field", "segments[0].newer_field"),
    ],
)
def test_paths_of_the_wire_read_like_python(path, argument):
    assert Violation(path, "").argument == argument


def test_globals_across_cuts_make_the_scope_a_custom_one(client, server):
    client.submit("a red ball", segments=STORY, global_across_cuts=True)
    assert server.creates[0].spec.temporal_scope == pb.TemporalScope(
        mode=pb.TEMPORAL_SCOPE_MODE_CUSTOM,
        local_window_frames=16,
        global_frames=8,
        phase_timestep=500,
        phase_bias=1.5,
        global_across_cuts=True,
        initial_noise=pb.INITIAL_NOISE_INDEPENDENT,
        global_choice=pb.GLOBAL_CHOICE_EVEN,
    )
    with pytest.raises(InvalidRequestError, match="global_across_cuts: must be True or False, got 1"):
        client.submit("a red ball", global_across_cuts=1)
