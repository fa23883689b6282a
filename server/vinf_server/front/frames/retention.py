"""What is still kept of a video, and what nobody needs any more.

A spool that keeps everything, and a generation that never drops a frame, need not know about either.
"""

from __future__ import annotations

from vinf_server.front.errors import FrameEvictedError
from vinf_server.front.frames.spool import SpoolFile


def first_available(frames: SpoolFile) -> int:
    """The first frame that is still kept."""
    # Asked for every frame of every reader; isinstance with a protocol takes ten times as long.
    first: int = getattr(frames, "first_available", 0)
    return first


def next_missing(frames: SpoolFile) -> int:
    """The first frame that is not there yet: all that are kept up to it can be read."""
    missing: int | None = getattr(frames, "next_missing", None)
    return frames.complete_run(0, frames.frame_count) if missing is None else missing


def check_available(frames: SpoolFile, frame_index: int) -> None:
    """Raise `FrameEvictedError` when the frame was dropped."""
    first = first_available(frames)
    if frame_index < first:
        raise FrameEvictedError(frame_index, first)


def release_before(video: object, frame_index: int) -> None:
    """Tell a video that nobody needs the frames before this one."""
    release = getattr(video, "release_before", None)
    if frame_index > 0 and release is not None:
        release(frame_index)
