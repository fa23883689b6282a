"""How long generations that have ended are kept, and what all of them take of the disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vinf_server.front.generations.generation import Generation

CHECKPOINT_BYTES_PER_PIXEL = 4
"""Two checkpoints of latents and a prediction, float32, four channels at an eighth of the size, take one byte a pixel;
models whose latents are larger take up to four times as much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """What is promised about generations that have ended."""

    keep_for_s: float | None = 7 * 86_400.0
    """Seconds from its end until a generation and its frames are forgotten; None: for ever."""

    keep_count: int = 1000
    """The newest so many stay, the others are forgotten earlier."""

    def expire_time_ns(self, generation: Generation) -> int:
        """When it is forgotten for its age, on the wall clock; 0: it has not ended, or nothing is."""
        if not generation.is_terminal or self.keep_for_s is None:
            return 0
        return generation.end_time_ns + int(self.keep_for_s * 1e9)

    def expired(self, ended: Iterable[Generation], now_ns: int) -> list[Generation]:
        """Those of the generations that have ended which are to be forgotten, oldest end first."""
        by_age = sorted(ended, key=lambda generation: generation.end_time_ns)
        surplus = len(by_age) - self.keep_count
        return [
            generation
            for position, generation in enumerate(by_age)
            if position < surplus or 0 < self.expire_time_ns(generation) <= now_ns
        ]


def stored_bytes(generation: Generation) -> int:
    """What its frames, and the images it is made from, take of the disk now."""
    frames = generation.frames
    return (frames.completed_count - frames.first_available) * frames.frame_size + generation.images.stored_bytes


def missing_bytes(generation: Generation) -> int:
    """What it will still need before it ends, its checkpoints included; they go with the end."""
    if generation.is_terminal:
        return 0
    frames, spec = generation.frames, generation.resolved_spec
    checkpoints = CHECKPOINT_BYTES_PER_PIXEL * spec.width * spec.height * spec.frame_count
    missing = frames.frame_count - frames.completed_count
    if generation.terms.retention_frame_count:
        kept = frames.completed_count - frames.first_available
        missing = min(missing, max(0, generation.terms.retention_frame_count - kept))
    return missing * frames.frame_size + checkpoints + generation.images.missing_bytes
