"""One reader's way through a video.

A reader holds one message of one frame at a time; frames come from `SharedFrames`, never from the ranks, so a slow
reader costs only itself, and any number of them may read the same video from different places.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from google.protobuf import timestamp_pb2

from vinf.v1 import generation_pb2, video_generation_service_pb2
from vinf_server.front.errors import FrameEvictedError
from vinf_server.front.frames.formats import ENCODING_NAMES, STORED, Format
from vinf_server.front.frames.shared import SharedFrames
from vinf_server.front.frames.video import Rendition
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.delivery import STREAM, Handed

Response = video_generation_service_pb2.StreamFramesResponse

EVICTED = "FRAME_EVICTED"
SKIPPED = "SKIPPED"

_PROGRESS_INTERVAL_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What a reader asked for, checked and with defaults filled in."""

    start: int
    stop: int
    to_the_end: bool
    """No end was named: the stream lasts until the generation is over."""

    max_data_bytes: int
    keepalive_s: float
    output: Format = STORED
    only_latest: bool = False
    """Frames that have a newer one are left out."""

    releases: bool = False
    """Frames are not needed any more once they were sent."""


class FrameReader:
    """Follows one video for one reader.

    Args:
      rendition: what is read; in the format that the window names.
      is_draining: asked before every frame and wait; True ends the stream where it stands.
      progress: says how far the generation has come.
      release: told that nobody needs the frames before an index.
    """

    def __init__(
        self,
        rendition: Rendition,
        window: Window,
        shared: SharedFrames,
        metrics: Metrics,
        *,
        is_draining: Callable[[], bool],
        progress: Callable[[], generation_pb2.GenerationProgress],
        release: Callable[[int], None] = lambda frame_index: None,
    ) -> None:
        self._rendition = rendition
        self._video = rendition.video
        self._window = window
        self._shared = shared
        self._metrics = metrics.delivery
        self._handed = Handed(metrics.delivery, STREAM, ENCODING_NAMES[window.output.encoding])
        self._is_live = not rendition.video.is_terminal
        """Whether the age of frames says anything: those of a recording are as old as it is."""
        self._is_draining = is_draining
        self._progress = progress
        self._release = release
        self._told_steps = self._video.completed_steps
        self._told_progress_at = -_PROGRESS_INTERVAL_S
        self.next_index = window.start

    async def responses(self) -> AsyncGenerator[Response | bytes, None]:
        """Yield frames in order as they become complete, serialised already, and what is told in between.

        Ends when the window is read, when the generation is over and no further frame follows without a gap, or when
        the server drains.
        """
        frames, window = self._video.frames, self._window
        silent_since = time.monotonic()
        while not self._is_draining():
            first_kept = frames.first_available
            if self.next_index < first_kept:
                yield self._gap(min(first_kept, window.stop), EVICTED)
                continue
            ready = frames.complete_run(self.next_index, window.stop if window.only_latest else self._following())
            if ready:
                if ready > 1:
                    yield self._gap(self.next_index + ready - 1, SKIPPED)
                async for message in self._frame():
                    yield message
                silent_since = time.monotonic()
                self._told_steps = self._video.completed_steps
                continue
            if self._video.is_terminal or (self.next_index >= window.stop and not window.to_the_end):
                return
            # Steps wake readers too, so the time left counts from the last frame, not from the last wake-up.
            now = time.monotonic()
            left = silent_since + window.keepalive_s - now
            if self._video.completed_steps != self._told_steps:
                pause = self._told_progress_at + _PROGRESS_INTERVAL_S - now
                if pause <= 0:
                    self._told_steps, self._told_progress_at = self._video.completed_steps, now
                    yield Response(progress=self._progress())
                    continue
                left = min(left, pause)
            if left <= 0:
                yield _keepalive()
                silent_since = time.monotonic()
            else:
                await self._video.changed.wait(timeout_s=left)

    async def _frame(self) -> AsyncGenerator[bytes, None]:
        """Yield the messages of the next frame, each asked for anew: a reader that stops here holds one of them."""
        index, position, is_last = self.next_index, 0, False
        while not is_last:
            try:
                packed = await self._shared.packed(self._rendition, index, self._window.max_data_bytes)
            except FrameEvictedError:
                return  # a gap takes its place
            message, is_last, data_bytes = (
                packed.messages[position],
                position + 1 == len(packed.messages),
                packed.data_bytes,
            )
            del packed
            await self._shared.turns.take()
            if self._is_live and position == 0:
                self._handed.sending(self._video.frames.complete_time_us(index))
            yield message
            position += 1
        self.next_index += 1
        self._handed.whole(data_bytes)
        if self._window.releases:
            self._release(self.next_index)

    def _following(self) -> int:
        return min(self.next_index + 1, self._window.stop)

    def _gap(self, next_index: int, reason: str) -> Response:
        first, self.next_index = self.next_index, next_index
        self._metrics.left_out_frames.labels(STREAM, reason).inc(next_index - first)
        return Response(
            gap=video_generation_service_pb2.FrameGap(
                first_missing_frame_index=first, next_frame_index=next_index, reason=reason
            )
        )


def _keepalive() -> Response:
    now = timestamp_pb2.Timestamp()
    now.GetCurrentTime()
    return Response(keepalive=video_generation_service_pb2.StreamKeepalive(server_time=now))
