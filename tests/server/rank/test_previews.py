"""Previews on their way to a front that a test plays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.server.conftest import wait_until
from tests.support.front import WAIT, KeepingFront, linked
from vinf_core.diffusion.preview import Preview
from vinf_server.rank.previews import LinkPreviews

pytestmark = pytest.mark.fast


@pytest.fixture
def front(tmp_path: Path) -> Iterator[tuple[KeepingFront, LinkPreviews]]:
    servicer = KeepingFront()
    with linked(servicer, tmp_path) as link:
        yield servicer, LinkPreviews(link, 1, "g")
        servicer.answers.set()


def preview() -> Preview:
    pictures = torch.arange(2 * 4 * 6 * 3, dtype=torch.uint8).reshape(2, 4, 6, 3)
    return Preview(completed_steps=5, frames=(8, 11), pictures=pictures)


def test_pictures_arrive_with_their_frames(front: tuple[KeepingFront, LinkPreviews]) -> None:
    servicer, sink = front
    sink.send(preview())
    assert servicer.came.wait(WAIT)
    (request,) = servicer.requests
    assert (request.generation_id, request.rank, request.step) == ("g", 1, 5)
    assert [(p.frame_index, p.width, p.height) for p in request.pictures] == [(8, 6, 4), (11, 6, 4)]
    assert b"".join(p.data for p in request.pictures) == bytes(range(144))


def test_there_is_no_room_until_the_front_has_answered(front: tuple[KeepingFront, LinkPreviews]) -> None:
    servicer, sink = front
    servicer.answers.clear()
    assert sink.has_room
    sink.send(preview())
    assert servicer.came.wait(WAIT)
    assert not sink.has_room
    servicer.answers.set()
    wait_until(lambda: sink.has_room)


def test_a_refusal_loses_one_preview_and_nothing_else(front: tuple[KeepingFront, LinkPreviews]) -> None:
    servicer, sink = front
    servicer.refuse = True
    sink.send(preview())
    wait_until(lambda: sink.has_room)
    servicer.refuse = False
    sink.send(preview())
    wait_until(lambda: len(servicer.requests) == 2)


def test_the_engine_does_not_wait_for_the_device(front: tuple[KeepingFront, LinkPreviews]) -> None:
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
