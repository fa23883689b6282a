"""The flight recorder: what a rank does with its time, span by span.

The engine's thread and those beside it add spans; whoever carries them away takes them batch by batch. A span costs
about a microsecond, so the recorder runs with every generation. It is bounded: beyond its limit it only counts.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import NamedTuple

SPAN_LIMIT = 50_000
"""Spans of one generation on one rank: a few hundred a step."""

DETAIL_LIMIT = 45_000
"""Of these, spans of single exchanges: steps and slices have room when those have used up theirs."""

SHORTEST_NS = 20_000
"""Shorter exchanges and agreements get no span of their own; `Span.communicate_ns` of the span around counts them."""


class Lane(StrEnum):
    """What the time went to. The spans of a lane do not overlap, those of TRANSFER and DELIVER excepted."""

    TEXT = "text"
    COMPUTE = "compute"
    """Denoising steps, exchanges included."""
    COMMUNICATE = "communicate"
    """Posting exchanges, waiting for what they bring, and reductions: computing stands still."""
    TRANSFER = "transfer"
    """Exchanges from the moment they are posted until what they bring is there, while computing may go on."""
    WAIT = "wait"
    """For the other ranks, or for room and answers of whoever takes the frames."""
    CHECKPOINT = "checkpoint"
    DECODE = "decode"
    DELIVER = "deliver"
    """Handing frames over, and sending them off from a thread of its own."""


_DETAILS = frozenset({Lane.COMMUNICATE, Lane.TRANSFER})
_MERGED = _DETAILS | {Lane.WAIT}


class Span(NamedTuple):
    """A stretch of time in a lane."""

    lane: Lane
    name: str
    start_ns: int
    """Since the Unix epoch, by this host's clock."""
    duration_ns: int
    step: int = 0
    """The denoising step, counted from 1; 0: none."""
    frames: range = range(0)
    """Frames of the video it is about; empty: none."""
    communicate_ns: int = 0
    """Of the duration, what went to communicating, the short exchanges without a span included. In the lane TRANSFER:
    posting, waiting and reductions meanwhile; the rest was hidden behind computing."""


class Recorder:
    """Collects the spans of one generation at a time. Any thread may add and take; adding never blocks."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque()
        self._lock = threading.Lock()
        self._count = 0
        self._wall_ns = 0
        self._host_mark = 0.0
        self.generation = 0
        """Grows with every `begin`."""
        self.is_recording = False
        self.left_out_count = 0
        """Spans beyond the limits since `begin`."""

    def begin(self) -> None:
        """Record from now on, and forget what was recorded before."""
        with self._lock:
            self._spans.clear()
            self._count = self.left_out_count = 0
            # Within a generation time is the steady clock's, so that no correction of the other one tears a span.
            self._wall_ns, self._host_mark = time.time_ns(), time.perf_counter()
            self.generation += 1
            self.is_recording = True

    def end(self) -> None:
        """Record nothing more; what was recorded can still be taken."""
        self.is_recording = False

    def wall_ns(self, mark: float) -> int:
        """Tell the wall clock's time at a ``time.perf_counter()``."""
        return self._wall_ns + int((mark - self._host_mark) * 1e9)

    def add(self, span: Span) -> None:
        """Record a span, unless it is too short or there are too many."""
        if not self.is_recording or (span.duration_ns < SHORTEST_NS and span.lane in _MERGED):
            return
        with self._lock:
            if self._count >= (DETAIL_LIMIT if span.lane in _DETAILS else SPAN_LIMIT):
                self.left_out_count += 1
                return
            self._count += 1
            self._spans.append(span)

    def add_host(self, lane: Lane, name: str, begin: float, *, step: int = 0, frames: range = range(0)) -> None:
        """Record the host's time from ``begin``, a ``time.perf_counter()``, until now."""
        duration = int((time.perf_counter() - begin) * 1e9)
        self.add(Span(lane, name, self.wall_ns(begin), duration, step, frames))

    @contextmanager
    def host(self, lane: Lane, name: str) -> Iterator[None]:
        """Record the host's time until the end of the block, also when it ends with an error."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add_host(lane, name, begin)

    def take(self, most: int) -> list[Span]:
        """Take the oldest spans away, at most so many."""
        with self._lock:
            return [self._spans.popleft() for _ in range(min(most, len(self._spans)))]
