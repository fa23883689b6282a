"""What happened when while a generation was made: spans of the server and of every rank."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from vinf.v1 import video_generation_service_pb2 as service_pb


class TraceLane(StrEnum):
    """What the time of a span went to; UNKNOWN is what a newer server invented."""

    UNKNOWN = "unknown"
    STATE = "state"
    """Of the server: queued, starting, running, cancelling, suspended."""
    STORE = "store"
    """Of the server: frames are stored."""
    READ = "read"
    """Of the server: a client reads frames."""
    TEXT = "text"
    """Prompts are encoded."""
    COMPUTE = "compute"
    """Denoising steps, their exchanges included."""
    COMMUNICATE = "communicate"
    """Posting exchanges, waiting for what they bring, and sums over all ranks: computing stands still."""
    TRANSFER = "transfer"
    """Exchanges from being posted until what they bring is there and wanted: computing may go on."""
    WAIT = "wait"
    """For the other ranks before a step, or for the server to take frames or a checkpoint."""
    CHECKPOINT = "checkpoint"
    """The state is copied."""
    DECODE = "decode"
    """Latents become pictures."""
    DELIVER = "deliver"
    """Frames are handed over, and sent to the server by another thread."""


_LANES = {
    number: TraceLane(name.removeprefix("TRACE_LANE_").lower())
    for name, number in service_pb.TraceLane.items()
    if number != service_pb.TRACE_LANE_UNSPECIFIED
}


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """A stretch of time in a lane."""

    lane: TraceLane
    name: str
    """What it was, within the lane: for example step, wait or reduce."""
    rank: int | None
    """None: the server itself."""
    epoch: int
    """Which launch of the ranks, counted from 1; 0 for the server itself."""
    start_ns: int
    """By the server's clock, since the Unix epoch."""
    duration_ns: int
    step: int = 0
    """The denoising step, counted from 1; 0: none."""
    frames: range = range(0)
    """The frames it is about; empty: none."""
    communicate_ns: int = 0
    """In TEXT, COMPUTE and DECODE: the part in which the rank communicated, exchanges too short for a span included. In
    TRANSFER: the part in which computing stood still; the rest was hidden behind it."""

    @property
    def end_ns(self) -> int:
        """When it ended."""
        return self.start_ns + self.duration_ns


@dataclass(frozen=True, slots=True)
class Trace:
    """What the server knew about a generation's past when it was asked.

    >>> from vinf_client import Client
    >>> from vinf_client.testing import FakeServer
    >>> with FakeServer() as server, Client(server.address) as client:
    ...     handle = client.submit("a red ball", frames=24)
    ...     handle.wait().state.value
    ...     trace = handle.trace()
    'succeeded'
    >>> sorted({span.lane.value for span in trace.spans if span.rank == 0})
    ['compute', 'decode']
    """

    generation_id: str
    spans: tuple[TraceSpan, ...]
    """By the time they began."""
    left_out_count: int = 0
    """Spans that are missing, as far as it is known."""

    def to_chrome(self) -> dict[str, Any]:
        """Return it in the Trace Event Format, which Perfetto and Chrome read once it is written as JSON."""
        from vinf_client._chrome_trace import chrome_trace

        return chrome_trace(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON in the Trace Event Format, compressed where the name ends in .gz; return where.

        Raises:
            OutputError: it cannot be written there.
        """
        from vinf_client._chrome_trace import write_chrome_trace

        return write_chrome_trace(self, Path(path))

    def shares(self) -> Mapping[int, "RankShares"]:
        """Return what each rank's time went to."""
        ranks = sorted({span.rank for span in self.spans if span.rank is not None})
        return {rank: _shares([span for span in self.spans if span.rank == rank]) for rank in ranks}


@dataclass(frozen=True, slots=True)
class RankShares:
    """What a rank's time went to, from its first span to its last one."""

    seconds: float
    lanes: Mapping[TraceLane, float]
    """Seconds by lane; those of TEXT, COMPUTE and DECODE without what they communicated."""
    transfer_seconds: float
    """Of all exchanges together."""
    hidden_seconds: float
    """Of these, what passed while the rank computed."""

    @property
    def hidden_share(self) -> float | None:
        """Of the exchanges' time, what was hidden behind computing; None: there were none."""
        return self.hidden_seconds / self.transfer_seconds if self.transfer_seconds else None


def read_trace(generation_id: str, messages: Iterable[service_pb.GetTraceResponse]) -> Trace:
    """Put a trace together."""
    spans: list[TraceSpan] = []
    left_out = 0
    for message in messages:
        left_out += message.left_out_span_count
        spans += map(_read_span, message.spans)
    return Trace(generation_id, tuple(sorted(spans, key=lambda span: (span.start_ns, -span.duration_ns))), left_out)


def _read_span(message: service_pb.TraceSpan) -> TraceSpan:
    start = message.start_frame_index
    return TraceSpan(
        lane=_LANES.get(message.lane, TraceLane.UNKNOWN),
        name=message.name,
        rank=message.rank if message.rank >= 0 else None,
        epoch=message.epoch,
        start_ns=message.start_time_ns,
        duration_ns=message.duration_ns,
        step=message.step,
        frames=range(start, start + message.frame_count),
        communicate_ns=message.communicate_ns,
    )


_BUSY = (TraceLane.TEXT, TraceLane.COMPUTE, TraceLane.DECODE)


def _shares(spans: list[TraceSpan]) -> RankShares:
    lanes = dict.fromkeys((*_BUSY, TraceLane.CHECKPOINT, TraceLane.DELIVER, TraceLane.WAIT, TraceLane.COMMUNICATE), 0.0)
    for lane in (*_BUSY, TraceLane.CHECKPOINT, TraceLane.DELIVER, TraceLane.WAIT):
        lanes[lane] = _covered([span for span in spans if span.lane is lane]) / 1e9
    for span in spans:
        if span.lane in _BUSY:
            lanes[span.lane] -= span.communicate_ns / 1e9
            lanes[TraceLane.COMMUNICATE] += span.communicate_ns / 1e9
    transfers = [span for span in spans if span.lane is TraceLane.TRANSFER]
    return RankShares(
        seconds=(max(span.end_ns for span in spans) - min(span.start_ns for span in spans)) / 1e9,
        lanes=lanes,
        transfer_seconds=sum(span.duration_ns for span in transfers) / 1e9,
        hidden_seconds=sum(max(0, span.duration_ns - span.communicate_ns) for span in transfers) / 1e9,
    )


def _covered(spans: list[TraceSpan]) -> int:
    """Nanoseconds in which at least one of the spans lasted."""
    covered = reached = 0
    for span in sorted(spans, key=lambda span: span.start_ns):
        covered += max(0, span.end_ns - max(reached, span.start_ns))
        reached = max(reached, span.end_ns)
    return covered
