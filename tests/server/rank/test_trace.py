"""Spans on their way to a front that a test plays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.front import WAIT, KeepingFront, linked
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.recorder import Lane, Recorder, Span
from vinf_server.rank import trace
from vinf_server.rank.link import Link
from vinf_server.rank.trace import LinkTrace

pytestmark = pytest.mark.fast


@pytest.fixture
def front(tmp_path: Path) -> Iterator[tuple[KeepingFront, Link]]:
    servicer = KeepingFront()
    with linked(servicer, tmp_path) as link:
        yield servicer, link
        servicer.answers.set()


def recorder_with(count: int) -> Recorder:
    recorder = Recorder()
    recorder.begin()
    for number in range(count):
        recorder.add(Span(Lane.DECODE, "decode", 1000 + number, 50_000, 3, range(4, 8), 9))
    return recorder


def test_everything_has_arrived_when_it_is_closed(
    front: tuple[KeepingFront, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, link = front
    monkeypatch.setattr(trace, "BATCH_SPANS", 4)
    monkeypatch.setattr(trace, "CLOSE_SECONDS", WAIT)  # spans are lost to a busy machine otherwise
    before = time.time_ns()
    sink = LinkTrace(link, 1, "g", recorder_with(10))
    sink.close()
    assert [len(request.spans) for request in servicer.requests] == [4, 4, 2]
    first = servicer.requests[0]
    assert (first.generation_id, first.rank) == ("g", 1)
    assert before <= first.send_time_ns <= time.time_ns()
    span = first.spans[0]
    assert (span.lane, span.name, span.step) == (pb.TRACE_LANE_DECODE, "decode", 3)
    assert (span.start_time_ns, span.duration_ns, span.communicate_ns) == (1000, 50_000, 9)
    assert (span.start_frame_index, span.frame_count) == (4, 4)


def test_spans_leave_while_the_generation_is_made(
    front: tuple[KeepingFront, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, link = front
    monkeypatch.setattr(trace, "PERIOD_SECONDS", 0.01)
    sink = LinkTrace(link, 0, "g", recorder_with(1))
    assert servicer.came.wait(WAIT)
    sink.close()


def test_a_front_that_does_not_answer_holds_nobody_up(
    front: tuple[KeepingFront, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, link = front
    monkeypatch.setattr(trace, "CLOSE_SECONDS", 0.05)
    servicer.answers.clear()
    recorder = recorder_with(3)
    sink = LinkTrace(link, 0, "g", recorder)
    began = time.monotonic()
    sink.close()
    recorder.add(Span(Lane.COMPUTE, "step", 1, 1))
    assert time.monotonic() - began < WAIT / 2


def test_what_is_refused_is_lost_with_one_line(
    front: tuple[KeepingFront, Link], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, link = front
    monkeypatch.setattr(trace, "CLOSE_SECONDS", WAIT)  # the line comes later on a busy machine otherwise
    servicer.refuse = True
    LinkTrace(link, 0, "g", recorder_with(1)).close()
    assert "its trace is not complete: an older epoch" in caplog.text
