"""The trace of a generation: what the ranks sent, and what the front itself knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import video_generation_service_pb2 as service_pb2
from vinf_server.front.generations.generation import CANCELLING, PENDING, RUNNING, SUSPENDED, TERMINAL, Generation
from vinf_server.front.traces.trace_file import TraceRecord

FRONT = -1
"""In place of a rank."""

_STATE_NAMES = {PENDING: "queued", RUNNING: "running", CANCELLING: "cancelling", SUSPENDED: "suspended"}

_LANES = {
    number: service_pb2.TraceLane.Value(name)
    for name, number in link_pb2.TraceLane.items()
    if number != link_pb2.TRACE_LANE_UNSPECIFIED
}


async def trace_of(generation: Generation) -> AsyncGenerator[service_pb2.GetTraceResponse, None]:
    """Yield the trace as far as it is known: a message for each of the ranks', then the front's own spans."""
    starts: list[int] = []
    left_out: dict[tuple[int, int], int] = {}
    async for record in generation.trace.records():
        if record.message.spans:
            # Thousands of spans take milliseconds.
            response, start_ns = await asyncio.to_thread(_converted, record)
            starts.append(start_ns)
            yield response
        sender = record.epoch, record.message.rank
        left_out[sender] = max(left_out.get(sender, 0), record.message.left_out_span_count)
    yield service_pb2.GetTraceResponse(
        spans=own_spans(generation, sorted(starts), time.time_ns()),
        left_out_span_count=sum(left_out.values()) + generation.trace.refused_count,
    )


def own_spans(generation: Generation, rank_starts: list[int], now_ns: int) -> list[service_pb2.TraceSpan]:
    """What the front did.

    Args:
        generation: whose states, frames and readers are told.
        rank_starts: when the ranks' spans begin, ascending.
        now_ns: the end of what goes on.
    """
    return [*_states(generation, rank_starts, now_ns), *_stores(generation), *_reads(generation, now_ns)]


def _converted(record: TraceRecord) -> tuple[service_pb2.GetTraceResponse, int]:
    """The spans as clients get them, and when the first one began."""
    spans = [_rank_span(record, span) for span in record.message.spans]
    return service_pb2.GetTraceResponse(spans=spans), min(span.start_time_ns for span in spans)


def _rank_span(record: TraceRecord, span: link_pb2.TraceSpan) -> service_pb2.TraceSpan:
    return service_pb2.TraceSpan(
        lane=_LANES[span.lane],
        name=span.name,
        rank=record.message.rank,
        epoch=record.epoch,
        start_time_ns=span.start_time_ns + record.offset_ns,
        duration_ns=span.duration_ns,
        step=span.step,
        start_frame_index=span.start_frame_index,
        frame_count=span.frame_count,
        communicate_ns=span.communicate_ns,
    )


def _states(generation: Generation, rank_starts: list[int], now_ns: int) -> Iterator[service_pb2.TraceSpan]:
    events = generation.events
    for number, event in enumerate(events):
        if event.state in TERMINAL:
            continue
        end_ns = events[number + 1].time_ns if number + 1 < len(events) else now_ns
        yield _span(service_pb2.TRACE_LANE_STATE, _STATE_NAMES[event.state], event.time_ns, end_ns)
        if event.state == RUNNING:
            first = next((start for start in rank_starts if event.time_ns <= start <= end_ns), end_ns)
            yield _span(service_pb2.TRACE_LANE_STATE, "starting", event.time_ns, first)


def _stores(generation: Generation) -> Iterator[service_pb2.TraceSpan]:
    frames = generation.frames
    if not generation.first_frame_time_ns:
        return
    newest_ns = frames.complete_time_us(frames.next_missing - 1) * 1000 if frames.next_missing else 0
    end_ns = max(generation.first_frame_time_ns, generation.last_frame_time_ns, newest_ns)
    stored = _span(service_pb2.TRACE_LANE_STORE, "frames stored", generation.first_frame_time_ns, end_ns)
    stored.frame_count = frames.completed_count
    yield stored


def _reads(generation: Generation, now_ns: int) -> Iterator[service_pb2.TraceSpan]:
    for reading in generation.readers.readings:
        read = _span(service_pb2.TRACE_LANE_READ, reading.name, reading.start_ns, reading.end_ns or now_ns)
        read.start_frame_index, read.frame_count = reading.start_frame, reading.frame_count
        yield read


def _span(lane: service_pb2.TraceLane.ValueType, name: str, start_ns: int, end_ns: int) -> service_pb2.TraceSpan:
    return service_pb2.TraceSpan(
        lane=lane, name=name, rank=FRONT, start_time_ns=start_ns, duration_ns=max(0, end_ns - start_ns)
    )
