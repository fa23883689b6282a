"""What a fake server does with each generation."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How generations go, for those that are created from then on; the defaults succeed at once."""

    frame_rate: float | None = None  # frames made a second; None: all at once
    step_seconds: float = 0.0  # that a denoising step takes
    fail_at_frame: int | None = None  # it ends with WORKER_LOST when so many frames are made
    evict_before: int = 0  # frames before this one are no longer kept
    break_at: tuple[int, ...] = ()  # the connection breaks, once each, when this frame is due
    silent_at: tuple[int, ...] = ()  # nothing more comes, once each, when this frame is due, and nothing is closed
    damage_at: tuple[int, ...] = ()  # this frame arrives damaged, once each
