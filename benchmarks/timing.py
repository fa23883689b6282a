"""Times that can be compared: contenders take turns, and a ratio is taken within each turn.

A machine that other work shares slows down for seconds at a time. What runs in the same turn meets the same weather, so
ratios within turns are steadier than ratios of averages. Every other turn runs backwards, against slow drift. For a
single thread on a CPU there is something steadier still: its CPU time, without what other processes took of the core.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Stopwatch = Callable[[Callable[[], object]], float]
"""Runs something and returns its seconds."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and how far the middle four fifths of the samples reach."""

    median: float
    low: float
    """10th percentile."""
    high: float
    """90th percentile."""

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Summarise at least one sample."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        tenths = statistics.quantiles(samples, n=10, method="inclusive")
        return cls(statistics.median(samples), tenths[0], tenths[-1])

    def scaled(self, factor: float) -> Spread:
        """The same in another unit; ``factor`` is positive."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


def ratio(samples: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Divide turn by turn."""
    return Spread.of([ours / theirs for ours, theirs in zip(samples, baseline, strict=True)])


def stopwatch(device: torch.device, *, threads: int) -> Stopwatch:
    """A stopwatch for work that waits for nobody, on ``device``.

    A GPU's time is taken with events, after it has finished. On a CPU it is the CPU time of a single thread, which on a
    machine of one's own is the time that passes; with more threads it is the time that passes.
    """
    if device.type == "cuda":
        return _cuda_seconds
    return wall_seconds if threads > 1 else cpu_seconds


def take_turns(
    contenders: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    watch: Stopwatch,
    on_turn: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Time every contender ``repeats`` times, in turns, after one turn that does not count.

    Args:
        contenders: what to run, by name.
        repeats: turns that count.
        watch: takes the time.
        on_turn: told the number of each turn before it starts; 0 is the one that does not count.

    Returns:
        Seconds of every turn, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for turn in range(repeats + 1):
        on_turn(turn)
        for name in order if turn % 2 else reversed(order):
            taken = watch(contenders[name])
            if turn:
                seconds[name].append(taken)
    return seconds


def wall_seconds(work: Callable[[], object]) -> float:
    """Seconds that pass on a CPU while ``work`` runs."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cpu_seconds(work: Callable[[], object]) -> float:
    """Seconds for which the calling thread has a CPU while ``work`` runs."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def _cuda_seconds(work: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
