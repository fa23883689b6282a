"""What the engine tells the outside: progress, and seconds by stage."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, IntEnum
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from vinf_core.recorder import Lane, Recorder, Span
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


_LANES = {
    Stage.TEXT: Lane.TEXT,
    Stage.DENOISE: Lane.COMPUTE,
    Stage.COMMUNICATE: Lane.COMMUNICATE,
    Stage.CHECKPOINT: Lane.CHECKPOINT,
    Stage.DECODE: Lane.DECODE,
}
"""What becomes a span by itself; of delivering the parts are told apart in `decode_video`."""


class _Anchor(NamedTuple):
    """A moment on both clocks, the GPU's and the host's."""

    event: torch.cuda.Event
    mark: float


class Measured:
    """A stretch of a stage while it is measured; its begin and end are moments of the device's clock."""

    def __init__(self, stage: Stage, name: str, frames: range, since: Measured | None, parent: Measured | None) -> None:
        self.stage = stage
        self.name = name
        self.frames = frames
        self.since = since
        self.parent = parent
        self.communicate_ns = 0
        self.duration_ns = 0
        self.begin: float | torch.cuda.Event = 0.0
        self.end: float | torch.cuda.Event = 0.0
        self.anchor: _Anchor | None = None


class StageClock:
    """Adds up the seconds spent in each stage; a nested stage's time counts for itself alone.

    On a CUDA device the time is the GPU's, taken with events and added up later: by `collect`, which waits for nothing,
    or by `settle`, which waits for the GPU: call it at step boundaries, never inside a step.

    What is measured while a generation is recorded becomes spans of the recorder, too: of the GPU's time, put onto the
    host's clock at moments when the GPU had nothing to do.
    """

    def __init__(self, device: torch.device, recorder: Recorder | None = None) -> None:
        self._cuda = device.type == "cuda"
        self._stack: list[Measured] = []
        self._mark: float | torch.cuda.Event = 0.0
        self._done = torch.cuda.Event(blocking=True) if self._cuda else None  # type: ignore[no-untyped-call]
        self._pending: deque[tuple[Stage, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._ended: deque[tuple[int, int, Measured]] = deque()
        self._anchor: tuple[int, _Anchor] | None = None
        self._step = 0
        self.recorder = recorder or Recorder()
        self.seconds: dict[Stage, float] = dict.fromkeys(Stage, 0.0)
        """Seconds by stage since the start; other threads may read it."""

    @contextmanager
    def measure(
        self,
        stage: Stage,
        name: str = "",
        *,
        step: int = 0,
        frames: range = range(0),
        since: Measured | None = None,
    ) -> Iterator[Measured]:
        """Credit the time until the end of the block to ``stage``.

        Args:
            stage: what is done.
            name: of the span; empty: that of the stage.
            step: the denoising step that begins, counted from 1; what is nested in it belongs to it.
            frames: frames of the video it is about.
            since: what began the transfer that this block waits for.
        """
        parent = self._stack[-1] if self._stack else None
        measured = Measured(stage, name, frames, since, parent)
        if step:
            self._step = step
        if self._cuda and self.recorder.is_recording:
            measured.anchor = self._anchored()
        measured.begin = self._switch()
        self._stack.append(measured)
        try:
            yield measured
        finally:
            measured.end = self._switch()
            self._stack.pop()
            if self.recorder.is_recording:
                if self._cuda:
                    self._ended.append((self.recorder.generation, self._step, measured))
                else:
                    self._record(measured, self._step)
            if step:
                self._step = 0

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
        # Events tell milliseconds in 32 bits: the next step is measured from here, where the GPU has nothing to do.
        self._anchor = None

    def collect(self) -> None:
        """Add up what the GPU has finished by now."""
        # Events are reached in the order in which they were recorded.
        while self._pending and self._pending[0][2].query():  # type: ignore[no-untyped-call]
            stage, begin, end = self._pending.popleft()
            self.seconds[stage] += begin.elapsed_time(end) / 1000
        while self._ended and _is_reached(self._ended[0][2].end):
            generation, step, measured = self._ended.popleft()
            if generation == self.recorder.generation:
                self._record(measured, step)

    def _switch(self) -> float | torch.cuda.Event:
        """Credit the time since the last switch; return this moment."""
        now: float | torch.cuda.Event
        if self._cuda:
            now = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            now.record()
            if self._stack and isinstance(self._mark, torch.cuda.Event):
                self._pending.append((self._stack[-1].stage, self._mark, now))
        else:
            now = time.perf_counter()
            if self._stack and isinstance(self._mark, float):
                self.seconds[self._stack[-1].stage] += now - self._mark
        self._mark = now
        return now

    def _anchored(self) -> _Anchor:
        """The newest moment at which the GPU was idle; both generations and steps begin with one."""
        generation = self.recorder.generation
        if self._anchor is None or self._anchor[0] != generation:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._anchor = generation, _Anchor(event, time.perf_counter())
        return self._anchor[1]

    def _record(self, measured: Measured, step: int) -> None:
        """Make a span, and one of the transfer that ends with it."""
        start_ns = self._start_ns(measured)
        if start_ns is None:
            return  # begun before anything was recorded
        stage, parent, since = measured.stage, measured.parent, measured.since
        lane = _LANES.get(stage)
        if lane is None:
            return
        measured.duration_ns = duration_ns = _elapsed_ns(measured.begin, measured.end)
        if stage is Stage.COMMUNICATE and parent is not None:
            parent.communicate_ns += duration_ns
        name, communicate_ns = measured.name or lane.value, measured.communicate_ns
        self.recorder.add(Span(lane, name, start_ns, duration_ns, step, measured.frames, communicate_ns))
        if since is None:
            return
        posted_ns = self._start_ns(since)
        if posted_ns is not None:
            took_ns = start_ns + duration_ns - posted_ns
            exposed_ns = since.duration_ns + duration_ns
            self.recorder.add(Span(Lane.TRANSFER, "exchange", posted_ns, took_ns, step, range(0), exposed_ns))

    def _start_ns(self, measured: Measured) -> int | None:
        if isinstance(measured.begin, float):
            return self.recorder.wall_ns(measured.begin)
        if measured.anchor is None:
            return None
        return self.recorder.wall_ns(measured.anchor.mark) + _elapsed_ns(measured.anchor.event, measured.begin)


def _is_reached(moment: float | torch.cuda.Event) -> bool:
    return isinstance(moment, float) or bool(moment.query())  # type: ignore[no-untyped-call]


def _elapsed_ns(begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> int:
    if isinstance(begin, float) and isinstance(end, float):
        return int((end - begin) * 1e9)
    assert isinstance(begin, torch.cuda.Event)
    assert isinstance(end, torch.cuda.Event)
    return int(begin.elapsed_time(end) * 1e6)
