"""How often a rank's state leaves it: as often as costs no more than a small share of the time that steps take.

Every rank judges by its own clock, and the ranks agree before each step: a checkpoint is taken where *every* rank can
afford one and has room for it, so it is taken on all ranks or on none, at the same step.
"""

from __future__ import annotations

from typing import Any

import torch

from vinf_core.context.key_frames import KeyFrames
from vinf_core.diffusion.checkpoint import CheckpointStore, capture
from vinf_core.events import Agreement, Boundary, StageClock
from vinf_core.recorder import Lane
from vinf_core.types import Clip, Stage

CHECKPOINT_SHARE = 0.02
"""Most time that checkpoints may take, as a share of the time of the steps."""

AGREEMENT_SECONDS = 1.0
"""Longest a rank waits for its store before it tells the others that it waits."""


class Checkpointer:
    """Takes one generation's checkpoints on one rank."""

    def __init__(
        self, store: CheckpointStore, clock: StageClock, clip: Clip, *, newest_step: int = 0, video_frames: int = 0
    ) -> None:
        """Make one.

        Args:
            store: where they go.
            clock: tells what steps and checkpoints cost.
            clip: this rank's.
            newest_step: steps done at the checkpoint that the generation is resumed from.
            video_frames: of the whole video.
        """
        self._store = store
        self._clock = clock
        self._clip = clip
        self._video_frames = video_frames
        self._spent_at_start = self._spent_before_last = self._spent()
        self._steps_at_start = self._steps
        self._newest_step = newest_step

    def can_save(self, completed_steps: int) -> bool:
        """Whether this rank has something new to save, room for it and time for it."""
        # The next one will cost what the last one did.
        spent = self._spent()
        expected = (spent - self._spent_at_start) + (spent - self._spent_before_last)
        affordable = expected <= CHECKPOINT_SHARE * (self._steps - self._steps_at_start)
        return completed_steps > self._newest_step and affordable and self._store.has_room

    def save(
        self,
        scheduler: Any,
        latents: torch.Tensor,
        completed_steps: int,
        agree: Agreement,
        key_frames: KeyFrames | None = None,
    ) -> None:
        """Take a checkpoint and send it off; the loop goes on at once. Every rank calls it at the same place.

        Args:
            scheduler, latents, completed_steps: see `capture`.
            agree: with the other ranks.
            key_frames: those of the video, where it has any.

        Raises:
            OutputInvalidError: the state of some rank is not finite; raised on every rank, and nothing is saved.
        """
        self._spent_before_last = self._spent()
        with self._clock.measure(Stage.CHECKPOINT):
            clip = self._clip
            state = capture(
                scheduler,
                latents,
                completed_steps=completed_steps,
                start_frame=clip.start,
                count=clip.count,
                are_key_frames=key_frames.of_clip() if key_frames is not None else None,
                video_frames=self._video_frames,
            )
            # On a GPU the one wait of a checkpoint, for what the step boundary has waited for already.
            agree(invalid=not state.is_finite, boundary=Boundary.SAVING)
            self._store.save(state)
        self._newest_step = completed_steps

    def finish(
        self,
        scheduler: Any,
        latents: torch.Tensor,
        completed_steps: int,
        agree: Agreement,
        key_frames: KeyFrames | None = None,
    ) -> None:
        """Save the state after the last step and return when every rank's has arrived.

        Only then may a frame leave, or the generation be suspended: whoever resumes it goes on from the same bits.

        Raises:
            OutputInvalidError: see `save`.
        """
        self._wait_until_stored(agree)
        if completed_steps > self._newest_step:
            self.save(scheduler, latents, completed_steps, agree, key_frames)
            self._wait_until_stored(agree)

    def _wait_until_stored(self, agree: Agreement) -> None:
        is_stored = False
        while not is_stored:
            with self._clock.recorder.host(Lane.WAIT, "checkpoint"):
                own_is_stored = self._store.wait_until_stored(AGREEMENT_SECONDS)
            is_stored = bool(agree(own_is_stored, boundary=Boundary.SAVING))

    def _spent(self) -> float:
        """Seconds of this rank's threads, the engine's and those that send."""
        return self._clock.seconds[Stage.CHECKPOINT] + self._store.seconds

    @property
    def _steps(self) -> float:
        return self._clock.seconds[Stage.DENOISE] + self._clock.seconds[Stage.COMMUNICATE]
