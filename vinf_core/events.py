"""What the engine tells the outside: progress, frames, and what it asks it."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vinf_core.stage_clock import Measured as Measured
from vinf_core.stage_clock import StageClock as StageClock
from vinf_core.types import Clip, Stage

Pixels = npt.NDArray[np.uint8]
"""One frame: ``[H, W, 3]``, RGB."""


class Observer(Protocol):
    """Hears how a generation goes; called on rank 0, from the thread that runs the engine, and must not block."""

    def started(self, generation_id: str, clips: tuple[Clip, ...], texts_at_once: int) -> None:
        """Every rank has planned these clips, and runs as many texts of a step at once."""

    def progress(self, generation_id: str, stage: Stage, completed_steps: int, step_seconds: float) -> None:
        """A stage began (``step_seconds`` 0) or a denoising step ended."""


class Verdict(IntEnum):
    """What the ranks agreed on; true unless some rank waits."""

    WAIT = 0
    GO = 1
    SAVE = 2
    """Go on, and take a checkpoint first: every rank can."""
    SUSPEND = 3
    """Take a checkpoint and stop: the generation will go on later. Only where the agreement is about a step."""


class Boundary(Enum):
    """What an agreement stands between; it decides what becomes of a wish to stop with a checkpoint."""

    STEP = "step"
    """Two steps: the wish is granted, the checkpoint is taken now."""
    SAVING = "saving"
    """A checkpoint is on its way: the wish waits, it is being granted or the next boundary sees it."""
    DECODE = "decode"
    """Nothing that is not saved already: the wish is a plain cancel."""


class StopWish(Enum):
    """Whether the outside wants a generation to stop."""

    NONE = "none"
    CANCEL = "cancel"
    """For good, at once."""
    SUSPEND = "suspend"
    """With a checkpoint, if there is anything to save."""


class Agreement(Protocol):
    """Asks all ranks whether to go on; called at the same places on every rank."""

    def __call__(
        self,
        ready: bool = True,
        *,
        save: bool = False,
        invalid: bool = False,
        boundary: Boundary = Boundary.DECODE,
    ) -> Verdict:
        """Return whether every rank is ready; raise on every rank alike to end the generation.

        Args:
            ready: whether this rank is.
            save: whether this rank can take a checkpoint now; the verdict is SAVE only when every rank can.
            invalid: whether this rank holds values that are not finite: the generation fails on every rank.
            boundary: where the ranks are, all of them alike.
        """


class FrameSink(Protocol):
    """Takes a rank's finished frames of one generation; called on every rank, from the thread that runs the engine.

    Nothing here blocks for longer than its timeout: a rank that waits says so to the others (`Agreement`).
    """

    def wait_for_room(self, frames: int, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until that many frames can be sent; return whether they can."""

    def send(self, frame_index: int, pixels: Pixels) -> None:
        """Take one frame, for which there is room. Frames may come in any order.

        Args:
            frame_index: its index in the video.
            pixels: lent until ``send`` returns: the memory is used again, so what is needed later must be copied here.
        """

    def finish(self) -> None:
        """Say that every frame has been sent."""

    def wait_for_delivery(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until every frame has reached its destination; return whether it has."""

    def abandon(self) -> None:
        """Give up: the generation was cancelled or failed."""
