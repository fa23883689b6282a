"""Memory that is counted is near what a rank measures."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from functools import partial

import pytest
import torch

from benchmarks.allocations import count_peak
from benchmarks.settings import Settings
from benchmarks.worlds import run_ranks
from tests.support.tiny import tiny_model
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.engine.probe import can_measure, peak_of
from vinf_core.events import StageClock

pytestmark = pytest.mark.process

CPU = torch.device("cpu")
M_MMAP_THRESHOLD = -3
"""From malloc.h: what is larger gets pages of its own, which go when it does. Once set, it stays (man 3 mallopt)."""
MAPPED_FROM_BYTES = 64 * 1024


def slope(peak: Callable[[Callable[[], object]], int]) -> int:
    """Bytes that 1024 frames take over 256."""
    topology, clock = Topology.single(CPU), StageClock(CPU)
    engine = Generator(tiny_model(torch.float32), topology, Exchange(topology, None, clock), clock)
    engine.probe(16)
    return peak(partial(engine.probe, 1024)) - peak(partial(engine.probe, 256))


def measured_slope(*_: object) -> int:
    """As a rank does, in a process of its own: a heap that has grown before would hide what a pass takes.

    Left to itself, glibc puts ever larger tensors between the small ones, and the holes make it twice as much in one
    process as in the next.
    """
    assert ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_FROM_BYTES), "no pages of its own for a large tensor"
    return round(statistics.median(slope(partial(peak_of, device=CPU)) for _ in range(9)))


@pytest.mark.skipif(not can_measure(CPU), reason="this system does not tell the peak of a process")
def test_what_is_counted_is_near_what_a_rank_measures() -> None:
    counted = slope(partial(count_peak, workspaces=False))
    (measured,) = run_ranks(1, Settings(device="cpu"), measured_slope)
    assert counted == pytest.approx(measured, rel=0.1), f"counted {counted}, measured {measured} bytes"
