"""What rank 0 tells all ranks, itself included."""

from __future__ import annotations

from dataclasses import dataclass

from vinf_core.types import GenerationSpec


@dataclass(frozen=True, slots=True)
class Generate:
    """Generate a video."""

    generation_id: str
    spec: GenerationSpec


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the loop; every rank exits."""


Command = Generate | Stop
