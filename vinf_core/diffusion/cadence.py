"""How often a rank's state leaves it: as often as costs no more than a small share of the time that steps take.

Every rank judges by its own clock, and the ranks agree before each step: a checkpoint is taken where *every* rank can
afford one and has room for it, so it is taken on all ranks or on none, at the same step.
"""

from __future__ import annotations

from typing import Any

import torch

from vinf_core.diffusion.checkpoint import CheckpointStore, capture
from vinf_core.events import Agreement, StageClock
from vinf_core.types import Clip, Stage

CHECKPOINT_SHARE = 0.02
"""Most time that checkpoints may take, as a share of the time of the steps."""

AGREEMENT_SECONDS = 1.0
"""Longest a rank waits for its store before it tells the others that it waits."""


class Checkpointer:
    """Takes one generation's checkpoints on one rank."""

    def __init__(self, store: CheckpointStore, clock: StageClock, clip: Clip, *, newest_step: int = 0) -> None:
        """Make one.

        Args:
            store: where they go.
            clock: tells what steps and checkpoints cost.
            clip: this rank's.
            newest_step: steps done at the checkpoint that the generation is resumed from.
        """
        self._store = store
        self._clock = clock
        self._clip = clip
        self._spent_at_start = self._spent_before_last = self._spent
        self._steps_at_start = self._steps
        self._newest_step = newest_step

    def can_save(self, completed_steps: int) -> bool:
        """Whether this rank has something new to save, room for it and time for it."""
        # The next one will cost what the last one did.
        expected = (self._spent - self._spent_at_start) + (self._spent - self._spent_before_last)
        affordable = expected <= CHECKPOINT_SHARE * (self._steps - self._steps_at_start)
        return completed_steps > self._newest_step and affordable and self._store.has_room

    def save(self, scheduler: Any, latents: torch.Tensor, completed_steps: int) -> None:
        """Take a checkpoint and send it off; the loop goes on at once."""
        self._spent_before_last = self._spent
        with self._clock.measure(Stage.CHECKPOINT):
            clip = self._clip
            self._store.save(
                capture(scheduler, latents, completed_steps=completed_steps, start_frame=clip.start, count=clip.count)
            )
        self._newest_step = completed_steps

    def finish(self, scheduler: Any, latents: torch.Tensor, completed_steps: int, agree: Agreement) -> None:
        """Save the state after the last step and return when every rank's has arrived.

        Only then may a frame leave: whoever resumes this generation decodes the same latents to the same bits.
        """
        while not agree(self._store.wait_until_stored(AGREEMENT_SECONDS)):
            pass
        if completed_steps > self._newest_step:
            self.save(scheduler, latents, completed_steps)
            while not agree(self._store.wait_until_stored(AGREEMENT_SECONDS)):
                pass

    @property
    def _spent(self) -> float:
        return self._clock.seconds[Stage.CHECKPOINT]

    @property
    def _steps(self) -> float:
        return self._clock.seconds[Stage.DENOISE] + self._clock.seconds[Stage.COMMUNICATE]
