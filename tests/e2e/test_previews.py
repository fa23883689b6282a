"""Previews from real ranks to those who watch, while a video is denoised."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from tests.support.server import Server
from vinf.v1 import generation_pb2 as pb
from vinf.v1.video_generation_service_pb2 import (
    CancelGenerationRequest,
    CreateGenerationRequest,
    Preview,
    WatchGenerationRequest,
    WatchGenerationResponse,
)
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client import Client

pytestmark = pytest.mark.process

SERVER = ("--ranks", "2", "--rank-weights", "even")
SPEC = {"prompt": "a red ball bouncing over the sea", "frame_count": 24, "seed": 2}
SHOWN = {0, 5, 11, 12, 17, 23}
"""The first frame, the one in the middle and the last of both clips."""


class Watcher:
    """Creates generations and watches them with previews."""

    def __init__(self, server: Server) -> None:
        self._channel = grpc.insecure_channel(server.address)
        self._stub = VideoGenerationServiceStub(self._channel)

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def create(self, *, interval: int = 0, **fields: Any) -> str:
        """Create one that nobody has to hold."""
        request = CreateGenerationRequest(
            spec=pb.GenerationSpec(**(SPEC | fields)), detached=True, preview_interval_steps=interval
        )
        return str(self._stub.CreateGeneration(request, timeout=30).generation.generation_id)

    def watch(self, generation_id: str) -> Iterator[WatchGenerationResponse]:
        return self._stub.WatchGeneration(  # type: ignore[no-any-return]
            WatchGenerationRequest(generation_id=generation_id, with_previews=True), timeout=120
        )

    def cancel(self, generation_id: str) -> None:
        self._stub.CancelGeneration(CancelGenerationRequest(generation_id=generation_id), timeout=30)


def blocks(picture: np.ndarray) -> np.ndarray:
    """The mean levels of 8 x 8 pixels each."""
    height, width, _ = picture.shape
    return picture.reshape(height // 8, 8, width // 8, 8, 3).mean(axis=(1, 3))


def error(preview: Preview, frame: np.ndarray) -> float:
    """Root of the mean squared difference, in levels of 255, of what both show at the preview's own size."""
    picture = Image.open(io.BytesIO(preview.jpeg_data))
    assert (picture.format, picture.size) == ("JPEG", (preview.width, preview.height)) == ("JPEG", (64, 64))
    return float(np.sqrt(np.square(blocks(np.asarray(picture)) - blocks(frame)).mean()))


def test_previews_of_every_clip_come_before_the_first_frame_and_near_it(tmp_path: Path) -> None:
    with Server(tmp_path, *SERVER) as server, Watcher(server) as watcher, Client(server.address) as client:
        plain = watcher.create(inference_step_count=12)
        generation_id = watcher.create(interval=2, inference_step_count=12)
        early: dict[int, Preview] = {}
        late: dict[int, Preview] = {}
        before_the_first_frame: set[int] = set()
        for response in watcher.watch(generation_id):
            for preview in response.previews:
                assert preview.completed_step_count % 2 == 0
                early.setdefault(preview.frame_index, preview)
                late[preview.frame_index] = preview
                if not response.generation.progress.completed_frame_count:
                    before_the_first_frame.add(preview.frame_index)
        assert response.generation.state == pb.GENERATION_STATE_SUCCEEDED
        assert before_the_first_frame == set(late) == SHOWN
        frames = np.stack(list(client.attach(generation_id).frames()))
        undisturbed = np.stack(list(client.attach(plain).frames()))
        np.testing.assert_array_equal(frames, undisturbed, err_msg="previews changed the video")
        errors = [float(np.mean([error(shown[index], frames[index]) for index in SHOWN])) for shown in (early, late)]
        print(f"previews differ from their frames by {errors[0]:.1f} at first, {errors[1]:.1f} at last")
        assert all(early[index].completed_step_count < late[index].completed_step_count for index in SHOWN)
        assert errors[1] < 0.9 * errors[0]

        # A bad prompt: the first preview is enough, and the ranks are free for the next one.
        cancelled = watcher.create(interval=1, inference_step_count=100)
        next_one = watcher.create(interval=1, inference_step_count=2, frame_count=1)
        for response in watcher.watch(cancelled):
            if response.previews and response.generation.state == pb.GENERATION_STATE_RUNNING:
                watcher.cancel(cancelled)
        assert response.generation.state == pb.GENERATION_STATE_CANCELLED
        assert response.generation.progress.completed_step_count < 50
        responses = list(watcher.watch(next_one))
        assert responses[-1].generation.state == pb.GENERATION_STATE_SUCCEEDED
        assert {preview.frame_index for response in responses for preview in response.previews} == {0}


@pytest.mark.timeout(300)  # two servers start, one after the other
def test_previews_go_on_with_the_next_server(tmp_path: Path) -> None:
    server = Server(tmp_path, *SERVER)
    with Watcher(server) as watcher:
        generation_id = watcher.create(interval=1, inference_step_count=40)
        seen: set[int] = set()
        for response in watcher.watch(generation_id):
            seen |= {preview.frame_index for preview in response.previews}
            if seen == SHOWN:
                break
        server.process.kill()
        server.stop()
    (tmp_path / "ready.json").unlink()
    with Server(tmp_path, *SERVER) as server, Watcher(server) as watcher:
        again: set[int] = set()
        for response in watcher.watch(generation_id):
            again |= {preview.frame_index for preview in response.previews}
        assert response.generation.state == pb.GENERATION_STATE_SUCCEEDED
        assert again == SHOWN
