"""What the engine tells the outside: progress, and seconds by stage."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

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


class StageClock:
    """Adds up the seconds spent in each stage; a nested stage's time counts for itself alone.

    On a CUDA device the time is the GPU's, taken with events and added up later: by `collect`, which waits for nothing,
    or by `settle`, which waits for the GPU: call it at step boundaries, never inside a step.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._stack: list[Stage] = []
        self._mark = 0.0
        self._event: torch.cuda.Event | None = None
        self._done = torch.cuda.Event(blocking=True) if self._cuda else None  # type: ignore[no-untyped-call]
        self._pending: deque[tuple[Stage, torch.cuda.Event, torch.cuda.Event]] = deque()
        self.seconds: dict[Stage, float] = dict.fromkeys(Stage, 0.0)
        """Seconds by stage since the start; other threads may read it."""

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Credit the time until the end of the block to ``stage``."""
        self._switch()
        self._stack.append(stage)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    @contextmanager
    def measure_host(self, stage: Stage) -> Iterator[None]:
        """Credit the host's time until the end of the block to ``stage``, whatever the GPU does meanwhile."""
        if not self._cuda:
            with self.measure(stage):
                yield
            return
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begin

    def settle(self) -> None:
        """Add up everything measured so far; waits until the GPU has finished it."""
        if self._done is not None:
            # A blocking event lets the host sleep; waiting on the timing events would spin a core.
            self._done.record()
            self._done.synchronize()
        self.collect()

    def collect(self) -> None:
        """Add up what the GPU has finished by now."""
        # Events are reached in the order in which they were recorded.
        while self._pending and self._pending[0][2].query():  # type: ignore[no-untyped-call]
            stage, begin, end = self._pending.popleft()
            self.seconds[stage] += begin.elapsed_time(end) / 1000

    def _switch(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            if self._stack and self._event is not None:
                self._pending.append((self._stack[-1], self._event, event))
            self._event = event
        else:
            now = time.perf_counter()
            if self._stack:
                self.seconds[self._stack[-1]] += now - self._mark
            self._mark = now
