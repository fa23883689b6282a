"""Previews on their way to a front that a test plays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import torch

from tests.server.conftest import wait_until
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf.engine.v1 import engine_link_service_pb2_grpc as pb_grpc
from vinf_core.diffusion.preview import Preview
from vinf_server.rank.link import Link
from vinf_server.rank.previews import LinkPreviews

pytestmark = pytest.mark.fast

WAIT = 20.0


class Front(pb_grpc.EngineLinkServiceServicer):
    """Keeps what came."""

    def __init__(self) -> None:
        self.requests: list[pb.SendPreviewRequest] = []
        self.came = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self.refuse = False

    def SendPreview(self, request, context):
        assert dict(context.invocation_metadata())["vinf-epoch"] == "7"
        self.requests.append(request)
        self.came.set()
        if self.refuse:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "an older epoch")
        self.answers.wait(WAIT)
        return pb.SendPreviewResponse()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[tuple[Front, LinkPreviews]]:
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = Front()
    pb_grpc.add_EngineLinkServiceServicer_to_server(servicer, server)
    address = f"unix:{tmp_path}/link"
    server.add_insecure_port(address)
    server.start()
    yield servicer, LinkPreviews(Link(address, epoch=7), 1, "g")
    servicer.answers.set()
    server.stop(None).wait()


def preview() -> Preview:
    pictures = torch.arange(2 * 4 * 6 * 3, dtype=torch.uint8).reshape(2, 4, 6, 3)
    return Preview(completed_steps=5, frames=(8, 11), pictures=pictures)


def test_pictures_arrive_with_their_frames(front: tuple[Front, LinkPreviews]) -> None:
    servicer, sink = front
    sink.send(preview())
    assert servicer.came.wait(WAIT)
    (request,) = servicer.requests
    assert (request.generation_id, request.rank, request.step) == ("g", 1, 5)
    assert [(p.frame_index, p.width, p.height) for p in request.pictures] == [(8, 6, 4), (11, 6, 4)]
    assert b"".join(p.data for p in request.pictures) == bytes(range(144))


def test_there_is_no_room_until_the_front_has_answered(front: tuple[Front, LinkPreviews]) -> None:
    servicer, sink = front
    servicer.answers.clear()
    assert sink.has_room
    sink.send(preview())
    assert servicer.came.wait(WAIT)
    assert not sink.has_room
    servicer.answers.set()
    wait_until(lambda: sink.has_room)


def test_a_refusal_loses_one_preview_and_nothing_else(front: tuple[Front, LinkPreviews]) -> None:
    servicer, sink = front
    servicer.refuse = True
    sink.send(preview())
    wait_until(lambda: sink.has_room)
    servicer.refuse = False
    sink.send(preview())
    wait_until(lambda: len(servicer.requests) == 2)


def test_the_engine_does_not_wait_for_the_device(front: tuple[Front, LinkPreviews]) -> None:
    """What it waits for stands in for the event behind a copy from a GPU."""
    servicer, sink = front
    copied = threading.Event()

    class Copy:
        def synchronize(self) -> None:
            assert copied.wait(WAIT)

    begun = preview()
    sink.send(Preview(completed_steps=5, frames=begun.frames, pictures=begun.pictures, copied=Copy()))
    assert not sink.has_room
    assert not servicer.requests
    copied.set()
    assert servicer.came.wait(WAIT)
