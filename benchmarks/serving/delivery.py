"""`vinf bench delivery`: how long a health check takes while others read frames, beside how long it takes alone.

A health check is answered on the event loop that delivers frames, so it waits for whatever holds that loop. Every turn
measures alone and under each load, one after the other, and ratios are taken within turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.report import Report, Value, say
from benchmarks.serving.child import child
from benchmarks.serving.load import Load, put_load
from benchmarks.serving.server import Served, Size, serve
from benchmarks.settings import DeliverySettings
from benchmarks.timing import Spread, ratio
from benchmarks.worlds import RankFailedError
from vinf.v1.generation_pb2 import GenerationSpec

SMALL: Size = (64, 64, 480)
"""Twenty seconds of the embedded model's pictures."""

FRAMES_PER_SECOND = 24.0

TARGETS = {"large frames": 5.0, "watchers": 2.0, "creators": 2.0, "small frames": 2.0}
"""How many times longer the slowest hundredth of the checks may take, at most, by load."""

ALONE = "alone"

_PAUSE_S = 0.002
"""Between checks: they shall ask, not press."""

_RPC_TIMEOUT_S = 30.0


def run(settings: DeliverySettings) -> list[Report]:
    """Measure every load against none."""
    large: Size = (settings.width, settings.height, settings.frames)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vinf-bench-"))
        say(f"writing {settings.frames} frames of {settings.width} x {settings.height}")
        process, server_pipe = stack.enter_context(child(serve, folder, (large, SMALL)))
        served: Served = server_pipe.recv()
        _, load_pipe = stack.enter_context(child(put_load, served.address))
        channel = stack.enter_context(grpc.insecure_channel(served.address))
        loads = {
            ALONE: Load(),
            "large frames": Load(readers=settings.readers, video=served.videos[0]),
            "watchers": Load(watchers=settings.watchers, waiting=served.waiting),
            "creators": Load(creators=settings.creators, wanted=GenerationSpec(prompt="noise")),
            "small frames": Load(
                readers=settings.small_readers, video=served.videos[1], frames_per_second=FRAMES_PER_SECOND
            ),
        }
        measured = {name: _Measured() for name in loads}
        bench = _Bench(psutil.Process(process.pid), load_pipe, health_pb2_grpc.HealthStub(channel), settings.seconds)
        for turn in range(settings.repeats + 1):
            say(f"turn {turn} of {settings.repeats}" + (", which does not count" if turn == 0 else ""))
            for name, load in loads.items():
                bench.measure(load, measured[name], counts=turn > 0)
        load_pipe.send(None)
    return [_report(settings, loads, measured)]


class _Measured:
    """One load over all turns."""

    def __init__(self) -> None:
        self.seconds: list[list[float]] = []
        """Of every check, by turn."""
        self.peak_bytes = 0
        """Most resident memory of the server."""
        self.rates: list[float] = []
        """Bytes of frames a second, by turn."""

    def p99s(self) -> list[float]:
        return [_percentile(turn, 99) for turn in self.seconds]

    def all_seconds(self) -> list[float]:
        return [seconds for turn in self.seconds for seconds in turn]


class _Bench:
    def __init__(
        self, server: psutil.Process, pipe: Connection, health: health_pb2_grpc.HealthStub, seconds: float
    ) -> None:
        self._server = server
        self._pipe = pipe
        self._health = health
        self._seconds = seconds

    def measure(self, load: Load, measured: _Measured, *, counts: bool) -> None:
        self._ask(load)
        began = time.perf_counter()
        samples, peak = [], 0
        while (started := time.perf_counter()) - began < self._seconds:
            self._health.Check(health_pb2.HealthCheckRequest(), timeout=_RPC_TIMEOUT_S)
            samples.append(time.perf_counter() - started)
            peak = max(peak, self._server.memory_info().rss)
            time.sleep(_PAUSE_S)
        passed = time.perf_counter() - began
        received: int = self._ask(None)
        if counts:
            measured.seconds.append(samples)
            measured.rates.append(received / passed)
            measured.peak_bytes = max(measured.peak_bytes, peak)

    def _ask(self, message: Load | None) -> Any:
        try:
            self._pipe.send(message)
            return self._pipe.recv()
        except (EOFError, BrokenPipeError):
            raise RankFailedError("the readers ended early") from None


def _report(settings: DeliverySettings, loads: dict[str, Load], measured: dict[str, _Measured]) -> Report:
    report = Report(
        title=f"a health check beside readers; large frames are {settings.width * settings.height * 3 / 1e6:.1f} MB"
    )
    alone = measured[ALONE]
    for name, load in loads.items():
        this = measured[name]
        row: dict[str, Value] = {
            "load": name,
            "clients": load.readers + load.watchers + load.creators,
            "p50 ms": _percentile(this.all_seconds(), 50) * 1e3,
            "p99 ms": _percentile(this.all_seconds(), 99) * 1e3,
            "p99 ratio": ratio(this.p99s(), alone.p99s()) if name != ALONE else None,
            "at most": TARGETS.get(name),
            "frames MB/s": Spread.of([rate / 1e6 for rate in this.rates]) if load.readers else None,
            "server MB": this.peak_bytes / 1e6,
        }
        report.rows.append(row)
    report.notes.append(f"{settings.repeats} turns of {settings.seconds:g} s a load; ratios are taken within turns")
    return report


def _percentile(samples: list[float], percent: int) -> float:
    if len(samples) == 1:
        return samples[0]
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]
