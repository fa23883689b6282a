"""The newest preview of each frame of a generation, in memory only."""

from __future__ import annotations

import io
from collections.abc import Iterable

from PIL import Image

from vinf.v1.video_generation_service_pb2 import Preview
from vinf_server.front.wakeup import Wakeup

LIMIT_BYTES = 2 << 20
"""Of JPEG data kept for a generation: all of it fits into one message of a watch, at gRPC's default limit of 4 MiB."""

MIN_WIDTH = 64
"""Pixels; narrower pictures are enlarged, so that people see something."""

_JPEG_QUALITY = 90


class PreviewBoard:
    """Previews as messages, each made once however many watch. Touched by the event loop only."""

    def __init__(self) -> None:
        self._newest: dict[int, tuple[int, Preview]] = {}
        """By frame, those that came last at the end: the version of the board that brought it, and the message."""
        self._size_bytes = 0
        self.version = 0
        """Grows with every `put`."""
        self.changed = Wakeup()
        """Notified by every `put`: whoever does not ask for previews is not woken by them."""

    def put(self, previews: Iterable[Preview]) -> None:
        """Let previews take the place of those of the same frames; where there is no room the oldest ones go."""
        self.version += 1
        for preview in previews:
            self._drop(preview.frame_index)
            self._newest[preview.frame_index] = (self.version, preview)
            self._size_bytes += len(preview.jpeg_data)
        while self._size_bytes > LIMIT_BYTES:
            self._drop(next(iter(self._newest)))
        self.changed.notify()

    def since(self, version: int) -> list[Preview]:
        """Those that have come since the board had this version, by frame; 0: all."""
        return [preview for _, (put_at, preview) in sorted(self._newest.items()) if put_at > version]

    def clear(self) -> None:
        """Keep nothing any longer."""
        self._newest.clear()
        self._size_bytes = 0

    def _drop(self, frame_index: int) -> None:
        _, preview = self._newest.pop(frame_index, (0, Preview()))
        self._size_bytes -= len(preview.jpeg_data)


def make_preview(pixels: bytes, width: int, height: int, *, frame_index: int, completed_steps: int) -> Preview:
    """Compress a picture; takes a millisecond or so, for a thread.

    Args:
        pixels: RGB24 from top to bottom, without padding.
        width: in pixels.
        height: in pixels.
        frame_index: whose picture it is.
        completed_steps: denoising steps done.
    """
    image = Image.frombuffer("RGB", (width, height), pixels)
    factor = -(-MIN_WIDTH // width)
    if factor > 1:
        image = image.resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_JPEG_QUALITY)
    return Preview(
        frame_index=frame_index,
        completed_step_count=completed_steps,
        width=image.width,
        height=image.height,
        jpeg_data=stream.getvalue(),
    )
