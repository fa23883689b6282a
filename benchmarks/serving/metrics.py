"""`vinf bench metrics`: what the metrics cost a denoising step, and a frame that is delivered.

Ranks make steps as they do in a generation while the calls that measure are counted; then each kind of call is timed by
itself, as the CPU time of its thread. A rank's share is what its engine's thread spends, and all that its beats cost,
as if that thread waited for each of them. The front is another process, and takes nothing from a rank that has a core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from benchmarks.models import build
from benchmarks.report import Report, Value, say
from benchmarks.settings import MetricsSettings, Settings
from benchmarks.subject import SteppingRank
from benchmarks.timing import Spread, cpu_seconds
from benchmarks.worlds import run_ranks
from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.balance import SpeedMeter
from vinf_core.events import StageClock
from vinf_core.types import Stage
from vinf_server.front.engine.worker_metrics import WorkerMetrics
from vinf_server.front.generations.generation import Generation
from vinf_server.front.generations.observe import GenerationObserver
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.delivery import STREAM, Handed
from vinf_server.rank.beats import Heart, Tally
from vinf_server.rank.coordinator import LinkCoordinator
from vinf_server.rank.link import Link
from vinf_server.rank.statistics import Statistics

TARGET_PERCENT = 0.5
"""Of a step, at most."""

MODEL = "sprites"
BEATS_PER_SECOND = 1.0
LOOP_LOOKS_PER_SECOND = 4.0

_BATCH = 500
"""Calls that are timed together."""


@dataclass(frozen=True, slots=True)
class RankCosts:
    """What one rank found."""

    step_seconds: list[float]
    clock_calls: dict[str, float]
    """In one step, by method."""

    call_seconds: dict[str, list[float]]
    """Of one call, a batch each."""

    beat: bytes
    """One, serialised."""


def run(settings: MetricsSettings) -> list[Report]:
    """Count, time, and put the two together."""
    say(f"counting {settings.steps} steps of {settings.frames} frames on {settings.ranks} ranks")
    asked = Settings(frames=(settings.frames,), ranks=settings.ranks, device=settings.device)
    ranks: list[RankCosts] = run_ranks(settings.ranks, asked, measure_rank, settings)
    say("timing the front's updates")
    front = Front([link_pb2.BeatRequest.FromString(rank.beat) for rank in ranks])
    return [_step_report(settings, ranks, front), _frame_report(settings, front)]


def measure_rank(topology: Topology, groups: Groups, asked: Settings, settings: MetricsSettings) -> RankCosts:
    """Count and time on this rank; every rank calls it with the same settings."""
    rank = SteppingRank(build(asked, topology.device).model, topology, groups)
    counted = rank.count(settings.frames, settings.steps)

    clock = StageClock(topology.device)
    meter = SpeedMeter(clock)
    coordinator = LinkCoordinator(cast(Link, None))  # it only queues what its thread would send
    heart = Heart(cast(Link, None), topology.rank)
    statistics = Statistics(rank.control, Axes.alone(rank.exchange), rank.generator, rank.clock, Tally())
    heart.describe(topology.device, statistics.fill)

    def measure() -> None:
        with clock.measure(Stage.COMMUNICATE):
            pass

    def in_a_step(work: Callable[[], object]) -> Callable[[], None]:
        def batch() -> None:
            with clock.measure(Stage.DENOISE):
                for _ in range(_BATCH):
                    work()

        return batch

    calls = {
        "measure": in_a_step(measure),
        "settle": _batch(clock.settle),
        "step counted": _batch(lambda: meter.step_ended(1)),
        "step told": _batch(lambda: coordinator.progress("generation", Stage.DENOISE, 1, 0.25)),
        "beat": _batch(heart.beat),
    }
    seconds = {name: _time(batch, settings.repeats, after=clock.settle) for name, batch in calls.items()}
    beat = heart.beat().SerializeToString()
    heart.stop()
    return RankCosts(counted.seconds, counted.clock_calls, seconds, beat)


class Front:
    """The front's part: what its event loop does when a report, a beat or a frame comes."""

    def __init__(self, beats: list[link_pb2.BeatRequest]) -> None:
        metrics = Metrics(CollectorRegistry())
        metrics.model_is_known(MODEL, world_size=len(beats), dtype="float32")
        spec = generation_pb2.GenerationSpec(model=MODEL, width=64, height=64, frame_count=96, inference_step_count=25)
        spec.frame_rate.num, spec.frame_rate.den = 24, 1
        generation = cast(
            Generation,
            SimpleNamespace(
                resolved_spec=spec,
                completed_steps=1,
                frames=SimpleNamespace(completed_count=1),
                create_time_ns=1,
                start_time_ns=1,
                last_frame_time_ns=1,
                generation_id="generation",
            ),
        )
        observer = GenerationObserver(metrics, queue_capacity=1)
        observer.started(generation)
        workers = WorkerMetrics(metrics)
        for beat in beats:
            workers.take_beat(1, beat)
        handed = Handed(metrics.delivery, STREAM, "raw")
        stall = metrics.delivery.client_stall.labels(STREAM)
        sent = metrics.calls.messages_sent.labels("server_stream", "vinf.v1.VideoGenerationService", STREAM)

        def deliver() -> None:
            handed.sending(1)
            handed.whole(12288)
            stall.inc(0.001)
            sent.inc()

        denoise = generation_pb2.GENERATION_STAGE_DENOISE
        self.step: Callable[[], object] = lambda: observer.progressed(generation, denoise, 0.25)
        self.beat: Callable[[], object] = lambda: workers.take_beat(1, beats[0])
        self.look: Callable[[], object] = lambda: metrics.process.event_loop_lag.observe(0.001)
        self.store: Callable[[], object] = lambda: observer.frame_stored(generation, 1)
        self.deliver: Callable[[], object] = deliver


@contextmanager
def counted_updates() -> Iterator[list[str]]:
    """Note every update of a metric, and every search for a series, while the block runs."""
    found: list[str] = []

    def noting(owner: type, name: str) -> Any:
        method = getattr(owner, name)

        def call(self: object, *args: object, **kwargs: object) -> object:
            found.append(name)
            return method(self, *args, **kwargs)

        return patch.object(owner, name, call)

    with ExitStack() as stack:
        for owner, name in (
            *((Counter, "inc"), (Gauge, "set"), (Gauge, "inc"), (Gauge, "dec")),
            *((Histogram, "observe"), (MetricWrapperBase, "labels")),
        ):
            stack.enter_context(noting(owner, name))
        yield found


def count_updates(work: Callable[[], object]) -> int:
    """How many metrics one call updates."""
    with counted_updates() as found:
        work()
    return sum(name != "labels" for name in found)


def _step_report(settings: MetricsSettings, ranks: list[RankCosts], front: Front) -> Report:
    # Whatever else makes a step longer makes every share smaller: the shortest one is the hardest measure.
    step_s = min(min(rank.step_seconds) for rank in ranks)
    busiest = max(ranks, key=lambda rank: rank.clock_calls.get("measure", 0.0))
    clock, beats = busiest.clock_calls, step_s * BEATS_PER_SECOND
    report = Report(title=f"{MODEL}, {settings.frames} frames, {settings.ranks} ranks: a step takes {step_s:.4g} s")

    def add(where: str, what: str, calls: float, seconds: list[float], updates: int | None = None) -> float:
        cost = Spread.of(seconds)
        percent = 100 * calls * cost.median / step_s
        row: dict[str, Value] = {
            "where": where,
            "what": what,
            "calls a step": calls,
            "updates a call": updates,
            "us a call": cost.scaled(1e6),
            "us a step": calls * cost.median * 1e6,
            "% of a step": percent,
            "wanted": None,
        }
        report.rows.append(row)
        return percent

    def total(where: str, percent: float, wanted: float | None) -> None:
        row: dict[str, Value] = {
            "where": where,
            "what": "all of it",
            "us a step": percent * step_s * 1e4,
            "% of a step": percent,
            "wanted": wanted,
        }
        report.rows.append(row)

    timed = busiest.call_seconds
    engine = add("rank", "StageClock.measure", clock.get("measure", 0) + clock.get("measure_host", 0), timed["measure"])
    engine += add("rank", "StageClock.settle", clock.get("settle", 0), timed["settle"])
    engine += add("rank", "count the step", 1, timed["step counted"])
    engine += add("rank", "tell the step", 1, timed["step told"])
    engine += add("rank", "make a beat", beats, timed["beat"])
    total("rank", engine, TARGET_PERCENT)
    other = 0.0
    for what, calls, work in (
        ("take a step", 1.0, front.step),
        ("take a beat", beats * settings.ranks, front.beat),
        ("look at the event loop", LOOP_LOOKS_PER_SECOND * step_s, front.look),
    ):
        other += add("front", what, calls, _time(_batch(work), settings.repeats), count_updates(work))
    total("front", other, None)
    report.notes = [
        f"the step: the shortest of {settings.steps} on any rank, on a CPU in CPU time of the engine's thread; "
        "calls: those of the rank that makes the most",
        "us a call: CPU time of the calling thread, in batches",
        "a beat comes once a second from a thread of its own; here it counts as if the engine waited for it",
    ]
    return report


def _frame_report(settings: MetricsSettings, front: Front) -> Report:
    report = Report(title="one frame, in the front")
    for what, work in (("stored", front.store), ("delivered to one reader", front.deliver)):
        row: dict[str, Value] = {
            "frame": what,
            "updates": count_updates(work),
            "us": Spread.of(_time(_batch(work), settings.repeats)).scaled(1e6),
        }
        report.rows.append(row)
    return report


def _batch(work: Callable[[], object]) -> Callable[[], None]:
    def batch() -> None:
        for _ in range(_BATCH):
            work()

    return batch


def _time(batch: Callable[[], None], repeats: int, *, after: Callable[[], object] = lambda: None) -> list[float]:
    """Seconds of one call, for each batch after one that does not count."""
    seconds = []
    for turn in range(repeats + 1):
        taken = cpu_seconds(batch)
        after()
        if turn:
            seconds.append(taken / _BATCH)
    return seconds
