"""What rank 0 tells all ranks, itself included."""

from __future__ import annotations

from dataclasses import dataclass

from vinf_core.types import GenerationSpec


@dataclass(frozen=True, slots=True)
class Generate:
    """Generate a video."""

    generation_id: str
    spec: GenerationSpec
    clip_frame_counts: tuple[int, ...] = ()
    """The clips that the generation was started with, one length a rank; empty: the ranks choose."""
    resume_step: int = 0
    """Steps done at the checkpoint to go on from; 0: from the start."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the loop; every rank exits."""


Command = Generate | Stop
