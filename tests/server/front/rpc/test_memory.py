"""What fits into a rank's memory, at the edges."""

from __future__ import annotations

import pytest

from tests.server.fakes import memory_model, model_limits, room_for
from vinf.v1 import generation_pb2
from vinf_server.front.errors import SpecTooLargeError
from vinf_server.front.rpc.memory import check_memory, largest_frame_count, predicted_bytes

pytestmark = pytest.mark.fast

MIB = 1 << 20


def refused(memory, frame_count=16, width=64, height=64) -> SpecTooLargeError | None:
    spec = generation_pb2.GenerationSpec(frame_count=frame_count, width=width, height=height)
    try:
        check_memory(spec, memory, model_limits())
    except SpecTooLargeError as error:
        return error
    return None


def test_prediction_is_the_larger_of_denoising_and_decoding():
    assert predicted_bytes(memory_model(), 16, 64, 64) == 48 * MIB
    assert predicted_bytes(memory_model(), 1, 128, 64) == 34 * MIB
    assert predicted_bytes(memory_model(decode_fixed_bytes=60 * MIB), 16, 64, 64) == 64 * MIB
    assert predicted_bytes(memory_model(bytes_per_frame_pixel=0.3), 1, 1, 1) == 32 * MIB + 1, "rounded up"


@pytest.mark.parametrize("share", [1.0, 0.5, 1 / 3, 0.25, 0.1, 0.7])
@pytest.mark.parametrize("clip_frames", [1, 2, 47, 400])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (32, 512), (48, 80)])
def test_number_in_the_refusal_is_accepted_and_one_more_is_not(share, clip_frames, width, height):
    memory = room_for(clip_frames * width * height / 4096, largest_clip_share=share)
    most = largest_frame_count(memory, model_limits(), width, height)
    assert int(clip_frames / share) - 1 <= most <= clip_frames / share + 1
    assert refused(memory, most, width, height) is None
    error = refused(memory, most + 1, width, height)
    assert error.metadata["maxFrameCount"] == str(most)
    assert [violation.field for violation in error.violations] == ["spec.frame_count"]


def test_refusal_says_what_there_is_and_what_fits():
    error = refused(room_for(20), 96)
    assert error.message == (
        "spec.frame_count: must be in [1, 20] frames at 64 x 64 pixels, got 96; "
        "a rank would need 128.00 MiB of memory and has 52.00 MiB"
    )
    assert error.metadata == {
        "fieldCount": "1",
        "maxFrameCount": "20",
        "predictedBytes": str(128 * MIB),
        "memoryBudgetBytes": str(52 * MIB),
    }


def test_need_never_reads_like_the_budget():
    error = refused(memory_model(budget_bytes=8 << 30, fixed_bytes=(8 << 30) - 16 * MIB, largest_clip_share=0.999), 17)
    assert "would need 8.01 GiB of memory and has 8.00 GiB" in error.message


@pytest.mark.parametrize(
    ("width", "height", "field"), [(512, 512, "width"), (512, 32, "width"), (32, 512, "height"), (64, 512, "height")]
)
def test_size_without_room_for_one_frame_is_named(width, height, field):
    error = refused(room_for(1), 3, width, height)
    ((name, problem),) = [(violation.field, violation.description) for violation in error.violations]
    assert name == f"spec.{field}"
    assert problem.startswith(
        f"must be smaller: not even one frame of {width} x {height} pixels fits; a rank would need"
    )
    assert error.metadata["maxFrameCount"] == "0"
    assert largest_frame_count(room_for(1), model_limits(), width, height) == 0


def test_decoding_alone_can_be_too_large():
    memory = memory_model(budget_bytes=64 * MIB, bytes_per_frame_pixel=1.0)
    assert refused(memory, 4, 192, 256) is None
    assert refused(memory, 4, 208, 256).metadata["maxFrameCount"] == "0"


def test_model_limit_ends_the_search():
    assert largest_frame_count(room_for(10**6), model_limits(), 64, 64) == 4096


def test_unknown_memory_refuses_nothing():
    assert refused(memory_model(), 4096, 512, 512) is None
    assert largest_frame_count(memory_model(), model_limits(), 64, 64) == 0


def test_tiny_budget_refuses_everything():
    assert refused(memory_model(budget_bytes=1), 1, 32, 32).metadata["maxFrameCount"] == "0"


def test_frames_of_other_ranks_count_by_half():
    memory = memory_model(largest_clip_share=0.25)
    assert predicted_bytes(memory, 64, 64, 64) == (32 + 16) * MIB
    assert predicted_bytes(memory, 64, 64, 64, context_frames=24) == (32 + 16 + 12) * MIB
    assert predicted_bytes(memory, 64, 64, 64, context_frames=1000) == (32 + 16 + 24) * MIB
    assert predicted_bytes(memory_model(), 64, 64, 64, context_frames=1000) == (32 + 64) * MIB, "one rank holds all"
    spec = generation_pb2.GenerationSpec(frame_count=64, width=64, height=64)
    spec.temporal_scope.local_window_frames = 200
    with pytest.raises(SpecTooLargeError):
        check_memory(spec, room_for(30, largest_clip_share=0.25), model_limits())


def test_an_overlapping_window_is_whole_however_short_the_clips_are():
    """The model was trained on 16 frames; of the dual scope's context nothing is left."""
    memory = memory_model(largest_clip_share=0.25)
    assert predicted_bytes(memory, 32, 64, 64, context_frames=1000, window_frames=16) == (32 + 16) * MIB
    assert predicted_bytes(memory, 8, 64, 64, window_frames=16) == (32 + 8) * MIB, "a short video is one short window"
    assert predicted_bytes(memory, 128, 64, 64, window_frames=16) == (32 + 32) * MIB, "the clip is longer"
    spec = generation_pb2.GenerationSpec(frame_count=16, width=64, height=64)
    narrow = room_for(10, largest_clip_share=0.25)
    check_memory(spec, narrow, model_limits())
    spec.temporal_scope.overlap_frames = 4
    with pytest.raises(SpecTooLargeError, match=r"\[1, 10\]"):
        check_memory(spec, narrow, model_limits())
