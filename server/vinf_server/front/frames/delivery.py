"""One reader's way through a video.

A reader holds at most one batch of frames in memory. It reads from the spool, never from the ranks, so a slow reader
costs only itself, and any number of them may read the same video from different places.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from google.protobuf import timestamp_pb2

from vinf.v1 import frame_pb2, generation_pb2, video_generation_service_pb2
from vinf_server.front.frames.layout import presentation_time_us
from vinf_server.front.frames.spool import SpoolFile
from vinf_server.front.wakeup import Wakeup

Response = video_generation_service_pb2.StreamFramesResponse

_BATCH_BYTES = 1 << 20
"""Small frames are read together up to this size: a thread hop costs more than reading 12 KiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What a reader asked for, checked and with defaults filled in."""

    start: int
    stop: int
    to_the_end: bool
    """No end was named: the stream lasts until the generation is over."""

    max_data_bytes: int
    keepalive_s: float


class Video(Protocol):
    """What a reader needs to know of a generation."""

    @property
    def resolved_spec(self) -> generation_pb2.GenerationSpec:
        """Size and frame rate."""

    @property
    def frames(self) -> SpoolFile:
        """Where its frames are."""

    @property
    def changed(self) -> Wakeup:
        """Notified when a frame is complete and when the video is over."""

    @property
    def is_terminal(self) -> bool:
        """True when no further frame will come."""


class FrameReader:
    """Follows one video for one reader.

    Args:
      is_draining: asked before every frame and wait; True ends the stream where it stands.
      count_frame: told the size of every frame that was handed out whole.
    """

    def __init__(
        self,
        video: Video,
        window: Window,
        *,
        is_draining: Callable[[], bool],
        count_frame: Callable[[int], None],
    ) -> None:
        self._video = video
        self._window = window
        self._is_draining = is_draining
        self._count_frame = count_frame
        self.next_index = window.start

    async def responses(self) -> AsyncGenerator[Response, None]:
        """Yield frames in order as they become complete, and keepalives in between.

        Ends when the window is read, when the generation is over and no further frame follows without a gap, or when
        the server drains.
        """
        frames, window = self._video.frames, self._window
        batch_frames = max(1, _BATCH_BYTES // frames.frame_size)
        descriptor: int | None = None
        silent_since = time.monotonic()
        try:
            while not self._is_draining():
                count = frames.complete_run(self.next_index, min(window.stop, self.next_index + batch_frames))
                if count:
                    if descriptor is None:
                        descriptor = await frames.open_reader()
                    batch = memoryview(await frames.read(descriptor, self.next_index, count))
                    for start in range(0, len(batch), frames.frame_size):
                        for response in self._slices(batch[start : start + frames.frame_size]):
                            yield response
                        self.next_index += 1
                        self._count_frame(frames.frame_size)
                    silent_since = time.monotonic()
                    continue
                if self._video.is_terminal or (self.next_index >= window.stop and not window.to_the_end):
                    return
                # Steps wake readers too, so the time left counts from the last message, not from the last wake-up.
                left = silent_since + window.keepalive_s - time.monotonic()
                if left <= 0:
                    yield _keepalive()
                    silent_since = time.monotonic()
                else:
                    await self._video.changed.wait(timeout_s=left)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _slices(self, pixels: memoryview) -> Iterator[Response]:
        index, spec = self.next_index, self._video.resolved_spec
        for offset in range(0, len(pixels), self._window.max_data_bytes):
            yield Response(
                frame=frame_pb2.Frame(
                    frame_index=index,
                    presentation_time_us=presentation_time_us(index, spec.frame_rate),
                    generate_time_us=self._video.frames.complete_time_us(index),
                    data_offset_bytes=offset,
                    data_size_bytes=len(pixels),
                    data=bytes(pixels[offset : offset + self._window.max_data_bytes]),
                )
            )


def _keepalive() -> Response:
    now = timestamp_pb2.Timestamp()
    now.GetCurrentTime()
    return Response(keepalive=video_generation_service_pb2.StreamKeepalive(server_time=now))
