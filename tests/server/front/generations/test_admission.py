"""Priorities, leases, deadlines and limits, as they change what happens to a generation."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2

from tests.server.fakes import normalised_spec
from vinf_server.front.errors import ClientLimitError, QueueFullError
from vinf_server.front.generations.generation import (
    CANCELLED,
    CANCELLING,
    FAILED,
    PENDING,
    RUNNING,
    Failure,
    Terms,
)
from vinf_server.front.generations.limits import ClientLimits

pytestmark = pytest.mark.fast

DEADLINE = Failure(code_pb2.DEADLINE_EXCEEDED, "JOB_DEADLINE", "too late")
EXPIRED = Failure(code_pb2.CANCELLED, "LEASE_EXPIRED", "nobody asked")


class Listener:
    def __init__(self):
        self.cancelled = []

    def generation_queued(self):
        pass

    def cancel_requested(self, generation):
        self.cancelled.append(generation)


@pytest.fixture(autouse=True)
def known_model(metrics):
    metrics.model_is_known("scripted", world_size=2, dtype="float32")


def create(generations, **terms):
    return generations.create(normalised_spec(), Terms(**terms), request_id="", validate_only=False)[0]


def test_a_higher_priority_is_taken_first_and_clearly_higher_ones_take_the_ranks(generations):
    usual = create(generations, priority=5)
    assert not generations.should_preempt()
    assert generations.start_next() is usual
    create(generations, priority=6)
    assert not generations.should_preempt(), "one step above is not clearly above"
    urgent = create(generations, priority=7)
    assert generations.should_preempt()
    generations.set_back(usual, "PREEMPTED")
    assert (usual.state, usual.state_reason) == (PENDING, "PREEMPTED")
    assert [generations.queue_position(g) for g in (urgent, usual)] == [0, 2]
    assert generations.start_next() is urgent
    assert not generations.should_preempt()


def test_who_is_preempted_runs_before_others_of_its_priority(generations):
    first, second = create(generations), create(generations)
    assert generations.start_next() is first
    generations.set_back(first, "PREEMPTED")
    assert [generations.start_next()] == [first]
    assert generations.queue_position(second) == 1


def test_one_that_is_being_cancelled_is_not_preempted(generations):
    generation = create(generations, priority=0)
    generations.start_next()
    create(generations, priority=9)
    assert generations.should_preempt()
    generations.cancel(generation.generation_id)
    assert not generations.should_preempt()


@pytest.mark.parametrize(("failure", "end"), [(DEADLINE, FAILED), (EXPIRED, CANCELLED)])
def test_what_waits_ends_at_once(generations, failure, end):
    generation = create(generations)
    generations.end_early(generation, failure)
    assert (generation.state, generation.state_reason, generation.failure) == (end, failure.reason, failure)
    assert generations.waiting_count == 0


@pytest.mark.parametrize(("failure", "end"), [(DEADLINE, FAILED), (EXPIRED, CANCELLED)])
def test_what_runs_ends_with_the_reason_once_the_ranks_have_stopped(generations, failure, end):
    listener = Listener()
    generations.subscribe(listener)
    generation = create(generations)
    generations.start_next()
    generations.end_early(generation, failure)
    assert (generation.state, generation.state_reason) == (CANCELLING, failure.reason)
    assert listener.cancelled == [generation]
    generations.cancel(generation.generation_id)  # changes nothing any more
    generations.cancelled(generation)
    assert (generation.state, generation.failure) == (end, failure)
    assert [event.state for event in generation.events] == [PENDING, RUNNING, CANCELLING, end]


def test_every_generation_is_watched_over(generations):
    create(generations, lease_s=10.0)
    create(generations, lease_s=None)
    assert len(generations.leases._leases) == 2


def test_a_named_client_may_have_so_many_waiting_and_nameless_ones_share_the_queue(generations):
    generations.limits = ClientLimits(max_waiting=1)
    create(generations, owner="a")
    with pytest.raises(ClientLimitError) as caught:
        create(generations, owner="a")
    assert caught.value.metadata["maxWaitingPerClient"] == "1"
    create(generations, owner="b")
    create(generations)
    with pytest.raises(QueueFullError):
        create(generations)


def test_a_full_queue_names_the_time_until_the_ranks_are_free(generations):
    now = [100.0]
    generations._estimate._clock = lambda: now[0]
    running = create(generations)
    generations.start_next()
    now[0] = 130.0
    generations.progressed(running, running.stage, 1, 10.0)
    now[0] = 150.0
    generations.progressed(running, running.stage, 3, 10.0)
    for _ in range(3):
        create(generations)
    with pytest.raises(QueueFullError) as caught:
        create(generations)
    assert caught.value.retry_s == pytest.approx(10.0), "two of four steps took 20 s, and one is left"
