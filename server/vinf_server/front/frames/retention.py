"""What is still kept of a video, and what nobody needs any more.

A spool that keeps everything, and a generation that never drops a frame, need not know about either.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from vinf_server.front.errors import FrameEvictedError
from vinf_server.front.frames.spool import SpoolFile


@runtime_checkable
class _Ring(Protocol):
    first_available: int
    next_missing: int


@runtime_checkable
class _Releasing(Protocol):
    def release_before(self, frame_index: int) -> None: ...


def first_available(frames: SpoolFile) -> int:
    """The first frame that is still kept."""
    return frames.first_available if isinstance(frames, _Ring) else 0


def next_missing(frames: SpoolFile) -> int:
    """The first frame that is not there yet: all that are kept up to it can be read."""
    return frames.next_missing if isinstance(frames, _Ring) else frames.complete_run(0, frames.frame_count)


def check_available(frames: SpoolFile, frame_index: int) -> None:
    """Raise `FrameEvictedError` when the frame was dropped."""
    first = first_available(frames)
    if frame_index < first:
        raise FrameEvictedError(frame_index, first)


def release_before(video: object, frame_index: int) -> None:
    """Tell a video that nobody needs the frames before this one."""
    if frame_index > 0 and isinstance(video, _Releasing):
        video.release_before(frame_index)
