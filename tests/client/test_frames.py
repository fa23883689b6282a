"""Frames arrive whole, in order and once, whatever the stream does."""

import gc
import threading

import grpc
import numpy as np
import pytest

from tests.client.fakes import Break, Failure
from vinf.v1 import frame_pb2
from vinf.v1 import generation_pb2 as pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client import (
    Client,
    GenerationCancelledError,
    GenerationFailedError,
    GenerationNotFoundError,
    ProtocolError,
    TransportError,
)
from vinf_client._assembler import FrameAssembler

pytestmark = pytest.mark.fast


def test_generate_yields_the_frames(client, server):
    video = client.generate("a red ball", frames=7)
    assert (len(video), video.width, video.height, video.frame_rate) == (7, 20, 10, 12)
    frames = list(video)
    np.testing.assert_array_equal(np.stack(frames), server.video())
    assert [frame.index for frame in frames] == list(range(7))
    assert not server.cancelled.is_set()


@pytest.mark.parametrize("size", [1, 100, 599, 600], ids=str)
def test_slices_are_put_together(client, server, size):
    server.slice_bytes = size
    server.frame_count = 2 if size == 1 else 7
    np.testing.assert_array_equal(np.stack(list(client.generate("a red ball"))), server.video())


def test_a_broken_stream_is_resumed_without_loss_or_duplicate(client, server):
    server.slice_bytes = 256
    server.breaks.extend([Break(3, part_bytes=256), Break(0), Break(2, failure=None)])
    reasons = []
    video = client.generate("a red ball", on_wait=reasons.append)
    np.testing.assert_array_equal(np.stack(list(video)), server.video())
    assert [reason.code for reason in reasons] == ["UNAVAILABLE"] * 3
    assert [request.start_frame_index for request in server.streams] == [0, 3, 3, 5]


def test_a_damaged_frame_is_asked_for_again(client, server):
    server.slice_bytes = 256
    server.damages[2] = 1
    reasons = []
    video = client.generate("a red ball", on_wait=reasons.append)
    np.testing.assert_array_equal(np.stack(list(video)), server.video())
    assert [request.start_frame_index for request in server.streams] == [0, 2]
    assert "frame 2 arrived damaged" in str(reasons[0])


def test_a_frame_that_is_always_damaged_is_given_up(server):
    server.slice_bytes = 256
    server.damages[0] = 10
    with Client(server.address, resume_attempts=2) as client, pytest.raises(TransportError, match="damaged"):
        next(iter(client.generate("a red ball")))
    assert len(server.streams) == 3


def test_frames_that_are_no_longer_kept_are_left_out(client, server):
    server.gaps[2] = 5
    server.breaks.append(Break(4))
    frames = list(client.submit("a red ball").frames())
    np.testing.assert_array_equal(np.stack(frames), server.video()[[0, 1, 5, 6]])


@pytest.mark.parametrize(("first", "following"), [(1, 3), (0, 0)])
def test_a_gap_elsewhere_is_refused(client, server, first, following):
    gap = service_pb.FrameGap(first_missing_frame_index=first, next_frame_index=following, reason="FRAME_EVICTED")
    server.extra_messages = [service_pb.StreamFramesResponse(gap=gap)]
    with pytest.raises(ProtocolError, match="expected frame 0"):
        list(client.generate("a red ball"))


def test_a_draining_server_is_asked_again(client, server):
    draining = pb.GenerationError(code=14, reason="SERVER_DRAINING", message="bye")
    server.ends.append(service_pb.StreamEnd(state=pb.GENERATION_STATE_RUNNING, error=draining, next_frame_index=7))
    assert len(list(client.submit("a red ball").frames(start=5))) == 2
    assert [request.start_frame_index for request in server.streams] == [5, 7]


def test_retries_are_bounded(server):
    server.breaks.extend([Break(1)] + [Break(0)] * 3)
    with Client(server.address, resume_attempts=2) as client:
        frames = iter(client.generate("a red ball"))
        next(frames)
        with pytest.raises(TransportError, match="broke"):
            next(frames)
    assert len(server.streams) == 4 - 1


def test_other_errors_are_not_retried(client, server):
    server.breaks.append(Break(2, failure=Failure(grpc.StatusCode.NOT_FOUND, "GENERATION_NOT_FOUND")))
    with pytest.raises(GenerationNotFoundError):
        list(client.generate("a red ball"))
    assert len(server.streams) == 1


def test_unknown_payloads_and_keepalives_are_skipped(client, server):
    newer = service_pb.StreamFramesResponse.FromString(b"\xfa\x01\x00")  # field 31, length-delimited, empty
    server.extra_messages = [service_pb.StreamFramesResponse(keepalive=service_pb.StreamKeepalive()), newer]
    server.extra_messages.append(service_pb.StreamFramesResponse(progress=pb.GenerationProgress(step_count=4)))
    assert len(list(client.generate("a red ball"))) == 7


def test_a_failed_generation_raises_after_its_frames(client, server):
    error = pb.GenerationError(code=14, reason="WORKER_LOST", message="rank 1 died", metadata={"rank": "1"})
    server.ends.append(service_pb.StreamEnd(state=pb.GENERATION_STATE_FAILED, error=error, next_frame_index=7))
    frames = []
    with pytest.raises(GenerationFailedError, match="rank 1 died") as caught:
        frames.extend(client.generate("a red ball"))
    assert (caught.value.code, caught.value.reason, caught.value.metadata) == (
        "UNAVAILABLE", "WORKER_LOST", {"rank": "1"},
    )  # fmt: skip
    assert caught.value.generation_id == "gen-1"
    assert not server.cancelled.is_set()


def test_a_cancelled_generation_raises(client, server):
    server.ends.append(service_pb.StreamEnd(state=pb.GENERATION_STATE_CANCELLED, next_frame_index=7))
    with pytest.raises(GenerationCancelledError, match="gen-1 was cancelled"):
        list(client.generate("a red ball"))


def test_breaking_out_of_the_loop_cancels(client, server):
    server.hold_after = 4
    for index, _ in enumerate(client.generate("a red ball")):
        if index == 2:
            break
    gc.collect()
    assert server.cancelled.wait(10)


def test_leaving_with_an_exception_cancels(client, server):
    server.hold_after = 4
    with pytest.raises(RuntimeError), client.generate("a red ball") as video:  # noqa: PT012
        next(iter(video))
        raise RuntimeError
    assert server.cancelled.wait(10)


def test_a_handle_does_not_cancel_when_its_reader_leaves(client, server):
    server.hold_after = 4
    frames = client.submit("a red ball").frames()
    next(frames)
    frames.close()
    assert server.stream_ended.wait(10)
    assert not server.cancelled.is_set()


def test_progress_is_called_back_and_stops(client, server):
    seen = []
    arrived = threading.Event()

    def on_progress(progress):
        seen.append(progress)
        if progress.state.terminal:
            arrived.set()

    server.hold_after = 5
    frames = iter(client.generate("a red ball", on_progress=on_progress))
    for _ in range(5):
        next(frames)
    server.released.set()
    assert arrived.wait(10)
    assert len(list(frames)) == 2
    assert [progress.state.value for progress in seen] == ["running", "succeeded"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vinf-progress")]


def test_wait_resumes_watching(client, server):
    server.watch_breaks.append(Failure(grpc.StatusCode.UNAVAILABLE))
    assert client.submit("a red ball").wait().state.value == "succeeded"


def test_wait_tells_failures(client, server):
    server.state = pb.GENERATION_STATE_FAILED
    server.error = pb.GenerationError(code=8, reason="GPU_OUT_OF_MEMORY", message="too large")
    with pytest.raises(GenerationFailedError, match="too large"):
        client.attach("gen-1").wait(timeout=5)


HEADER = {"width": 2, "height": 1, "pixel_format": 1, "frame_size_bytes": 6}


@pytest.mark.parametrize(
    "change",
    [{"pixel_format": 9}, {"frame_size_bytes": 7}, {"width": 0, "frame_size_bytes": 0}],
    ids=["pixel format", "size", "empty"],
)
def test_headers_that_make_no_sense_are_refused(change):
    with pytest.raises(ProtocolError):
        FrameAssembler(frame_pb2.VideoFormat(**{**HEADER, **change}))


@pytest.mark.parametrize(
    "frame",
    [
        {"frame_index": 1, "data_size_bytes": 6, "data": b"abcdef"},
        {"data_size_bytes": 5, "data": b"abcde"},
        {"data_offset_bytes": 3, "data_size_bytes": 6, "data": b"def"},
        {"data_size_bytes": 6, "data": b"abcdefg"},
        {"data_size_bytes": 6, "data": b""},
    ],
    ids=["index", "size", "offset", "overflow", "empty"],
)
def test_frames_that_do_not_fit_are_refused(frame):
    with pytest.raises(ProtocolError):
        FrameAssembler(frame_pb2.VideoFormat(**HEADER)).add(frame_pb2.Frame(**frame), index=0)
