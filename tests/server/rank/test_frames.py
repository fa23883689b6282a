"""The rank's frame sender against a real gRPC server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.support.front import WAIT, linked
from tests.support.lending import Lender
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf.engine.v1 import engine_link_service_pb2_grpc as pb_grpc
from vinf_server.rank.frames import QUEUED_FRAMES, SLICE_BYTES, DeliveryError, FrameSender
from vinf_server.rank.link import Link

pytestmark = pytest.mark.fast


def deliver(sender: FrameSender) -> None:
    """Finish and wait for the front's answer."""
    sender.finish()
    assert sender.wait_for_delivery(WAIT), "no answer in time"


class Front(pb_grpc.EngineLinkServiceServicer):
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.requests: list[pb.SendFramesRequest] = []
        self.epochs: set[str] = set()
        self.refuse = False
        self.hold = threading.Event()
        self.hold.set()

    def SendFrames(self, request_iterator, context):
        self.epochs.add(dict(context.invocation_metadata())["vinf-epoch"])
        if self.refuse:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "an older epoch")
        self.hold.wait(WAIT)
        self.requests.extend(request_iterator)
        done = {r.frame.frame_index for r in self.requests if r.HasField("frame")}
        return pb.SendFramesResponse(stored_frame_count=len(done))


@pytest.fixture
def front(tmp_path: Path) -> Iterator[tuple[Front, Link]]:
    servicer = Front()
    with linked(servicer, tmp_path) as link:
        yield servicer, link


def test_frames_arrive_in_slices_and_are_declared_complete(front: tuple[Front, Link]) -> None:
    servicer, link = front
    rng = np.random.default_rng(0)
    frames = {3: rng.integers(0, 256, (700, 600, 3), np.uint8), 5: rng.integers(0, 256, (8, 8, 3), np.uint8)}
    sender = FrameSender(link, 1, "g")
    for index, pixels in frames.items():
        sender.send(index, pixels)
    deliver(sender)
    assert servicer.epochs == {"7"}
    assert {r.generation_id for r in servicer.requests} == {"g"}
    assert servicer.requests[-1].complete.frame_count == 2
    slices = [r.frame for r in servicer.requests if r.HasField("frame")]
    assert max(len(s.data) for s in slices) == SLICE_BYTES
    for index, pixels in frames.items():
        mine = [s for s in slices if s.frame_index == index]
        assert b"".join(s.data for s in mine) == pixels.tobytes()
        assert [s.data_offset_bytes for s in mine] == list(range(0, pixels.nbytes, SLICE_BYTES))
        assert {s.data_size_bytes for s in mine} == {pixels.nbytes}


def test_frames_are_taken_before_send_returns(front: tuple[Front, Link]) -> None:
    """The decoder uses its buffers again: what waits for the network must be a copy."""
    servicer, link = front
    servicer.hold.clear()
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (700, 600, 3), np.uint8) for _ in range(12)]
    sender = FrameSender(link, 0, "g")
    lender = Lender(sender, frames[0])
    for index, pixels in enumerate(frames):
        lender.send(index, pixels)
    servicer.hold.set()
    deliver(sender)
    for index, pixels in enumerate(frames):
        pieces = [r.frame.data for r in servicer.requests if r.HasField("frame") and r.frame.frame_index == index]
        assert b"".join(pieces) == pixels.tobytes(), f"frame {index} was overwritten while it waited"


def test_a_rank_without_frames_still_completes(front: tuple[Front, Link]) -> None:
    servicer, link = front
    deliver(FrameSender(link, 0, "g"))
    assert servicer.requests[-1].complete.frame_count == 0


def test_a_refusal_is_an_error_and_never_a_deadlock(front: tuple[Front, Link]) -> None:
    servicer, link = front
    servicer.refuse = True
    sender = FrameSender(link, 0, "g")

    def send_more_than_the_queue_holds() -> None:
        for index in range(40):
            assert sender.wait_for_room(1, WAIT)
            sender.send(index, np.zeros((2, 2, 3), np.uint8))
        deliver(sender)

    with pytest.raises(DeliveryError, match="an older epoch"):
        send_more_than_the_queue_holds()


def test_a_full_queue_says_so_instead_of_blocking(front: tuple[Front, Link]) -> None:
    servicer, link = front
    servicer.hold.clear()
    sender = FrameSender(link, 0, "g")
    big = np.zeros((2000, 1000, 3), np.uint8)  # too large for the transport to swallow several
    for index in range(60):
        if not sender.wait_for_room(4, timeout=0.2):
            break
        sender.send(index, big)
    assert index < 40, "a reader that does not read must hold the sender back"
    assert not sender.wait_for_delivery(timeout=0.1)
    servicer.hold.set()
    assert sender.wait_for_room(4, WAIT)
    deliver(sender)


def test_chunks_of_more_frames_than_the_queue_usually_holds_find_room(front: tuple[Front, Link]) -> None:
    servicer, link = front
    servicer.hold.clear()
    sender, chunk = FrameSender(link, 0, "g"), 2 * QUEUED_FRAMES
    picture = np.zeros((500, 1000, 3), np.uint8)
    for _ in range(2):
        assert sender.wait_for_room(chunk, WAIT)
        for index in range(chunk):
            sender.send(index, picture)
    assert not sender.wait_for_room(chunk, timeout=0.2)
    servicer.hold.set()
    assert sender.wait_for_room(chunk, WAIT)
    deliver(sender)


def test_abandoned_frames_are_not_called_complete(front: tuple[Front, Link]) -> None:
    servicer, link = front
    sender = FrameSender(link, 0, "g")
    sender.send(0, np.zeros((2, 2, 3), np.uint8))
    sender.abandon()
    assert not any(r.HasField("complete") for r in servicer.requests)
