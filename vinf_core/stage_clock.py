"""The clock of the engine's stages: seconds by stage, and spans for the flight recorder.

On a GPU neither waits: events are recorded in the stream, and looked at when the GPU has reached them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

import torch

from vinf_core.recorder import Lane, Recorder, Span
from vinf_core.types import Stage

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
    """A stretch of a stage, measured from entering a ``with`` block to leaving it, by the device's clock."""

    __slots__ = (
        *("_clock", "stage", "name", "step", "frames", "since", "parent"),
        *("begin", "end", "anchor", "communicate_ns", "communicated_before_ns"),
    )

    begin: float | torch.cuda.Event
    end: float | torch.cuda.Event

    def __init__(
        self, clock: StageClock, stage: Stage, name: str, step: int, frames: range, since: Measured | None
    ) -> None:
        self._clock = clock
        self.stage = stage
        self.name = name
        self.step = step
        self.frames = frames
        self.since = since
        self.parent: Measured | None = None
        self.anchor: _Anchor | None = None
        self.communicate_ns = 0
        self.communicated_before_ns = 0
        """What the stretch around it had communicated by its begin."""

    def __enter__(self) -> Self:
        self._clock.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._clock.leave(self)


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
        self._ended: deque[tuple[int, Measured]] = deque()
        self._anchor: tuple[int, _Anchor] | None = None
        self.recorder = recorder or Recorder()
        self.seconds: dict[Stage, float] = dict.fromkeys(Stage, 0.0)
        """Seconds by stage since the start; other threads may read it."""

    def measure(
        self,
        stage: Stage,
        name: str = "",
        *,
        step: int = 0,
        frames: range = range(0),
        since: Measured | None = None,
    ) -> Measured:
        """Credit the time that a ``with`` block takes to ``stage``.

        Args:
            stage: what is done.
            name: of the span; empty: that of the stage.
            step: the denoising step that begins, counted from 1; what is nested in it belongs to it.
            frames: frames of the video it is about.
            since: what began the transfer that this block waits for.
        """
        return Measured(self, stage, name, step, frames, since)

    def enter(self, measured: Measured) -> None:
        """Begin to measure; for `Measured` alone."""
        if self._stack:
            measured.parent = parent = self._stack[-1]
            measured.step = measured.step or parent.step
        if self._cuda and self.recorder.is_recording:
            measured.anchor = self._anchored()
        measured.begin = self._switch()
        self._stack.append(measured)

    def leave(self, measured: Measured) -> None:
        """End what was begun last; for `Measured` alone."""
        measured.end = self._switch()
        self._stack.pop()
        if self.recorder.is_recording:
            if self._cuda:
                self._ended.append((self.recorder.generation, measured))
            else:
                self._record(measured)

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
        while self._ended and _is_reached(self._ended[0][1].end):
            generation, measured = self._ended.popleft()
            if generation == self.recorder.generation:
                self._record(measured)

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

    def _record(self, measured: Measured) -> None:
        """Make a span, and one of the transfer that ends with it."""
        start_ns = self._start_ns(measured)
        if start_ns is None:
            return  # begun before anything was recorded
        stage, parent, since = measured.stage, measured.parent, measured.since
        lane = _LANES.get(stage)
        if lane is None:
            return
        duration_ns = _elapsed_ns(measured.begin, measured.end)
        if stage is Stage.COMMUNICATE and parent is not None:
            measured.communicated_before_ns = parent.communicate_ns
            parent.communicate_ns += duration_ns
        name, communicate_ns = measured.name or lane.value, measured.communicate_ns
        self.recorder.add(Span(lane, name, start_ns, duration_ns, measured.step, measured.frames, communicate_ns))
        if since is None or parent is None or since.parent is not parent:
            return
        posted_ns = self._start_ns(since)
        if posted_ns is not None:
            took_ns = start_ns + duration_ns - posted_ns
            # Posting, waiting, and the reductions between the two.
            exposed_ns = parent.communicate_ns - since.communicated_before_ns
            self.recorder.add(Span(Lane.TRANSFER, "exchange", posted_ns, took_ns, measured.step, range(0), exposed_ns))

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
