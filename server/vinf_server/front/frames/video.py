"""A video as its readers see it, and the shape they want it in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from vinf.v1 import frame_pb2, generation_pb2
from vinf_server.front.frames.formats import Format, video_format
from vinf_server.front.frames.layout import presentation_time_us
from vinf_server.front.frames.spool import SpoolFile
from vinf_server.front.wakeup import Wakeup


class Video(Protocol):
    """What a reader needs to know of a generation."""

    @property
    def generation_id(self) -> str:
        """Never used for another one."""

    @property
    def resolved_spec(self) -> generation_pb2.GenerationSpec:
        """Size and frame rate."""

    @property
    def frames(self) -> SpoolFile:
        """Where its frames are."""

    @property
    def changed(self) -> Wakeup:
        """Notified when a frame is complete, when a step has ended and when the video is over."""

    @property
    def completed_steps(self) -> int:
        """Denoising steps done."""

    @property
    def is_forgotten(self) -> bool:
        """True once it was deleted."""

    @property
    def is_terminal(self) -> bool:
        """True when no further frame will come."""


@dataclass(frozen=True)
class Rendition:
    """A video in a format."""

    video: Video
    output: Format

    @cached_property
    def header(self) -> frame_pb2.VideoFormat:
        """What every frame looks like."""
        return video_format(self.video.resolved_spec, self.output)

    def facts(self, frame_index: int) -> frame_pb2.Frame:
        """The message of a frame, still without any bytes; the event loop calls it."""
        return frame_pb2.Frame(
            frame_index=frame_index,
            presentation_time_us=presentation_time_us(frame_index, self.video.resolved_spec.frame_rate),
            generate_time_us=self.video.frames.complete_time_us(frame_index),
            format_revision=self.header.format_revision,
        )
