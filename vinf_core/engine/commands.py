"""What rank 0 tells all ranks, itself included."""

from __future__ import annotations

from dataclasses import dataclass

from vinf_core.errors import InvalidSpecError
from vinf_core.types import GenerationSpec

MAX_PREVIEW_INTERVAL = 1000


@dataclass(frozen=True, slots=True)
class Generate:
    """Generate a video."""

    generation_id: str
    spec: GenerationSpec
    clip_frame_counts: tuple[int, ...] = ()
    """The clips that the generation was started with, one length a rank; empty: the ranks choose."""
    resume_step: int = 0
    """Steps done at the checkpoint to go on from; 0: from the start."""
    texts_at_once: int = 0
    """Texts that a step runs together, as when the generation was started; 0: the ranks choose."""
    first_frame: int = 0
    """Frames before it are there already and need not be decoded."""
    preview_interval: int = 0
    """Steps from one preview to the next; 0: none."""

    def __post_init__(self) -> None:
        for name, value, most in (
            ("resume_step", self.resume_step, self.spec.step_count),
            ("texts_at_once", self.texts_at_once, 2),
            ("first_frame_index", self.first_frame, self.spec.frame_count),
            ("preview_interval_steps", self.preview_interval, MAX_PREVIEW_INTERVAL),
        ):
            if not 0 <= value <= most:
                raise InvalidSpecError(f"{name}: {value} is not in [0, {most}]")


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the loop; every rank exits."""


Command = Generate | Stop
