"""Checkpoints to the front and back, over a real channel to a front that a test plays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import torch

from tests.support.front import WAIT, linked
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf.engine.v1 import engine_link_service_pb2_grpc as pb_grpc
from vinf_core.diffusion.checkpoint import Checkpoint
from vinf_core.errors import CheckpointError
from vinf_server.rank.checkpoints import LinkCheckpoints
from vinf_server.rank.frames import SLICE_BYTES, DeliveryError

pytestmark = pytest.mark.fast


class Front(pb_grpc.EngineLinkServiceServicer):
    """Keeps the newest part and hands it back whole."""

    def __init__(self) -> None:
        self.requests: list[pb.SendCheckpointRequest] = []
        self.hold = threading.Event()
        self.hold.set()
        self.refuse = False
        self.flip = False

    def SendCheckpoint(self, request_iterator, context):
        assert dict(context.invocation_metadata())["vinf-epoch"] == "7"
        if self.refuse:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "an older epoch")
        self.hold.wait(WAIT)
        self.requests = list(request_iterator)
        return pb.SendCheckpointResponse(stored=True)

    def FetchCheckpoint(self, request, context):
        if request.step != 7:
            context.abort(grpc.StatusCode.NOT_FOUND, "the newest checkpoint is after step 7")
        for sent in self.requests[1:-1]:
            data = sent.data
            yield pb.FetchCheckpointResponse(data=data[:-1] + bytes([data[-1] ^ 1]) if self.flip else data)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[tuple[Front, LinkCheckpoints]]:
    servicer = Front()
    with linked(servicer, tmp_path) as link:
        yield servicer, LinkCheckpoints(link, 1, "g")


def checkpoint(frames: int, size: int = 2) -> Checkpoint:
    latents = torch.randn(frames, 4, size, size)
    return Checkpoint(completed_steps=7, start_frame=5, latents=latents)


def test_parts_travel_in_slices_and_come_back(front: tuple[Front, LinkCheckpoints]) -> None:
    servicer, store = front
    saved = checkpoint(5, size=200)
    store.save(saved)
    assert store.wait_until_stored(WAIT)
    part, *data, last = servicer.requests
    assert part.part == pb.CheckpointPart(generation_id="g", rank=1, step=7, start_frame_index=5, frame_count=5)
    assert [len(message.data) for message in data[:-1]] == [SLICE_BYTES] * (len(data) - 1)
    assert last.complete.data_size_bytes == sum(len(message.data) for message in data)
    fetched = store.fetch(7, range(5, 10))
    assert torch.equal(fetched.latents, saved.latents)


def test_one_at_a_time(front: tuple[Front, LinkCheckpoints]) -> None:
    servicer, store = front
    servicer.hold.clear()
    assert store.has_room
    store.save(checkpoint(1))
    assert not store.has_room
    assert not store.wait_until_stored(0.05)
    servicer.hold.set()
    assert store.wait_until_stored(WAIT)
    assert store.has_room


def test_a_rank_without_frames_sends_nothing(front: tuple[Front, LinkCheckpoints]) -> None:
    servicer, store = front
    store.save(checkpoint(0))
    assert store.has_room
    assert store.wait_until_stored(0)
    assert not servicer.requests


def test_a_refusal_is_an_error_for_who_waits(front: tuple[Front, LinkCheckpoints]) -> None:
    servicer, store = front
    servicer.refuse = True
    store.save(checkpoint(1))
    with pytest.raises(DeliveryError, match="an older epoch"):
        store.wait_until_stored(WAIT)


def test_what_cannot_be_resumed_from_is_an_error(front: tuple[Front, LinkCheckpoints]) -> None:
    servicer, store = front
    store.save(checkpoint(2))
    assert store.wait_until_stored(WAIT)
    with pytest.raises(CheckpointError, match="after step 7"):
        store.fetch(8, range(5, 7))
    servicer.flip = True
    with pytest.raises(CheckpointError, match="damaged"):
        store.fetch(7, range(5, 7))
