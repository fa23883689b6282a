"""A trace as clients get it: the ranks' spans, and what the front itself knows."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.fakes import create
from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import video_generation_service_pb2 as pb
from vinf_server.front.generations.generation import CANCELLED, PENDING, RUNNING, SUSPENDED, Event
from vinf_server.front.generations.story import own_spans, trace_of

pytestmark = pytest.mark.fast

S = 10**9


def told(spans):
    return [(span.name, span.start_time_ns // S, span.duration_ns // S) for span in spans]


def test_states_follow_from_the_events(generations):
    generation = create(generations)
    states = [(PENDING, 10), (RUNNING, 12), (PENDING, 20), (RUNNING, 21), (SUSPENDED, 30)]
    generation.events = [Event(n, t * S, state, "") for n, (state, t) in enumerate(states, 1)]
    spans = own_spans(generation, [14 * S, 15 * S, 24 * S], 40 * S)
    assert told(spans) == [
        ("queued", 10, 2),
        ("running", 12, 8),
        ("starting", 12, 2),
        ("queued", 20, 1),
        ("running", 21, 9),
        ("starting", 21, 3),
        ("suspended", 30, 10),
    ]
    assert {(span.lane, span.rank, span.epoch) for span in spans} == {(pb.TRACE_LANE_STATE, -1, 0)}
    generation.events.append(Event(6, 50 * S, CANCELLED, ""))
    assert told(own_spans(generation, [], 90 * S))[-1] == ("suspended", 30, 20)


def test_readers_are_one_span_each(generations):
    generation = create(generations)
    stream = generation.readers.stream_opened("ipv4:1", 3)
    stream.start_ns = 5 * S
    generation.readers.pulled("ipv4:2", 0, 2, began_ns=6 * S)
    (open_stream, pull) = [s for s in own_spans(generation, [], 9 * S) if s.lane == pb.TRACE_LANE_READ]
    assert (open_stream.name, open_stream.start_frame_index, open_stream.duration_ns) == ("stream", 3, 4 * S)
    assert (pull.name, pull.frame_count) == ("pull", 2)
    stream.end_ns, stream.frame_count = 7 * S, 12
    ended = next(s for s in own_spans(generation, [], 9 * S) if s.name == "stream")
    assert (ended.duration_ns, ended.frame_count) == (2 * S, 12)


def test_the_ranks_spans_come_on_the_fronts_clock_with_what_is_missing(generations):
    async def scenario():
        generation = create(generations)
        span = link_pb2.TraceSpan(
            lane=link_pb2.TRACE_LANE_TRANSFER,
            name="exchange",
            start_time_ns=100,
            duration_ns=7,
            communicate_ns=3,
            step=2,
        )
        for left_out in (4, 9):
            message = link_pb2.SendTraceRequest(rank=1, left_out_span_count=left_out, spans=[span])
            await generation.trace.append(message, epoch=2, delay_ns=50)
        responses = [response async for response in trace_of(generation)]
        assert [len(response.spans) for response in responses] == [1, 1, 1]
        (found,) = responses[0].spans
        assert (found.lane, found.name, found.rank, found.epoch) == (pb.TRACE_LANE_TRANSFER, "exchange", 1, 2)
        assert (found.start_time_ns, found.duration_ns, found.communicate_ns, found.step) == (150, 7, 3, 2)
        assert [response.left_out_span_count for response in responses] == [0, 0, 9]
        assert responses[-1].spans[0].name == "queued"

    asyncio.run(scenario())


def test_every_lane_of_the_ranks_has_one_for_clients():
    names = set(link_pb2.TraceLane.keys())
    assert names < set(pb.TraceLane.keys())
