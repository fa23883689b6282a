"""A model of several frames a latent frame: lengths, solvers, prompts and memory, as clients are told and held to."""

from __future__ import annotations

import pytest

from tests.server.fakes import model_limits, room_for
from vinf.v1 import generation_pb2, server_info_service_pb2
from vinf_core.latent_frames import FrameGrid
from vinf_server.front.errors import SpecTooLargeError
from vinf_server.front.rpc.convert import model_message
from vinf_server.front.rpc.memory import check_memory, largest_frame_count, predicted_bytes
from vinf_server.front.rpc.spec import SpecValidator

pytestmark = pytest.mark.fast

LIMITS = model_limits(
    frames_per_latent=4,
    default_frame_count=13,
    max_frame_count=4096,
    solvers=["flow_euler"],
    default_solver="flow_euler",
    single_prompt=True,
)
SEGMENT = generation_pb2.PromptSegment(start_frame_index=5, prompt="a blue square")


def violated(**fields) -> dict[str, str]:
    validator = SpecValidator(LIMITS)
    validator.check(generation_pb2.GenerationSpec(prompt="a red circle", **fields))
    return {violation.field.removeprefix("spec."): violation.description for violation in validator.violations}


@pytest.mark.parametrize("frame_count", [1, 5, 13, 4093, 0])
def test_lengths_that_it_makes(frame_count):
    assert violated(frame_count=frame_count, solver=generation_pb2.SOLVER_FLOW_EULER) == {}


@pytest.mark.parametrize(("frame_count", "near"), [(2, "1 or 5"), (16, "13 or 17"), (4094, "4093"), (4096, "4093")])
def test_other_lengths_are_answered_with_the_nearest_ones(frame_count, near):
    assert violated(frame_count=frame_count) == {
        "frame_count": f"must be a multiple of 4, plus 1: {near} would do, got {frame_count}"
    }


def test_one_sentence_a_field():
    wrong = violated(frame_count=4098, solver=generation_pb2.SOLVER_DDIM, prompt_segments=[SEGMENT])
    assert wrong == {
        "frame_count": "must be in [1, 4096] frames (default 13), got 4098",
        "solver": "must be one of 3 = flow_euler (default: the model's own), got 1 = ddim",
        "prompt_segments": "must be empty, model 'scripted' takes one prompt for the whole video, got 1 segments",
    }


def test_clients_are_told():
    info = model_message(LIMITS, room_for(40))
    assert (info.frame_count_step, list(info.solvers), info.single_prompt) == (
        4,
        [generation_pb2.SOLVER_FLOW_EULER],
        True,
    )
    assert FrameGrid(4).fits(info.max_frame_count_at_default_size)
    plain = model_message(model_limits(), room_for(40))
    assert (plain.frame_count_step, plain.single_prompt) == (1, False)
    assert list(plain.solvers) == [generation_pb2.SOLVER_DDIM, generation_pb2.SOLVER_DPM_SOLVER_PP_2M]
    assert isinstance(plain, server_info_service_pb2.ModelInfo)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("room", [8, 20, 41])
def test_the_number_in_a_refusal_is_a_length_that_fits(share, room):
    memory = room_for(room, largest_clip_share=share)
    most = largest_frame_count(memory, LIMITS, 64, 64)
    assert FrameGrid(4).fits(most)
    for frame_count in (most, most + 4):
        spec = generation_pb2.GenerationSpec(frame_count=frame_count, width=64, height=64)
        if frame_count == most:
            check_memory(spec, memory, LIMITS)
            continue
        with pytest.raises(SpecTooLargeError, match=rf"\[1, {most}\]"):
            check_memory(spec, memory, LIMITS)


def test_whole_latent_frames_are_counted():
    """Thirteen frames are four latent frames, of which the longer of two clips has two: eight frames' worth."""
    memory = room_for(100, largest_clip_share=0.5)
    needed = predicted_bytes(memory, 13, 64, 64, frames_per_latent=4)
    assert needed == predicted_bytes(memory, 16, 64, 64)
