"""Checkpoints without a front."""

from __future__ import annotations

from dataclasses import dataclass, field

from vinf_core.diffusion.checkpoint import Checkpoint, from_records, to_records


@dataclass
class Store:
    """A `CheckpointStore` that keeps every record of every step; a test hands it on to other ranks."""

    records: dict[int, dict[int, bytes]] = field(default_factory=dict)
    waits: int = 0
    has_room: bool = True
    seconds: float = 0.0

    def save(self, checkpoint: Checkpoint) -> None:
        kept = self.records.setdefault(checkpoint.completed_steps, {})
        kept.update(enumerate(to_records(checkpoint), checkpoint.start_frame))

    def wait_until_stored(self, timeout: float) -> bool:
        self.waits += 1
        return self.waits % 3 != 0

    def fetch(self, completed_steps: int, frames: range) -> Checkpoint:
        records = [self.records[completed_steps][frame] for frame in frames]
        return from_records(records, completed_steps=completed_steps, frames=frames)
