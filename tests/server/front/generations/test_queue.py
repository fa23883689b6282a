"""Who runs next."""

import pytest

from vinf_server.front.errors import QueueFullError
from vinf_server.front.generations.queue import GenerationQueue

pytestmark = pytest.mark.fast


def drained(queue):
    return [queue.take() for _ in range(len(queue))]


def test_one_owner_is_served_in_order_of_arrival():
    queue = GenerationQueue(8)
    for name in "abc":
        queue.put(name)
    assert list(queue) == ["a", "b", "c"]
    assert drained(queue) == ["a", "b", "c"]
    assert queue.take() is None


def test_a_higher_priority_runs_first():
    queue = GenerationQueue(8)
    for name, priority in (("low", 0), ("usual", 5), ("high", 9), ("usual-2", 5)):
        queue.put(name, priority=priority)
    assert queue.highest_priority == 9
    assert [queue.position(name) for name in ("high", "usual", "usual-2", "low")] == [0, 1, 2, 3]
    assert drained(queue) == ["high", "usual", "usual-2", "low"]
    assert queue.highest_priority is None


def test_owners_take_turns_within_a_priority():
    queue = GenerationQueue(16)
    for number in range(4):
        queue.put(f"greedy-{number}", owner="greedy")
    assert queue.take() == "greedy-0"
    queue.put("modest-0", owner="modest")
    queue.put("modest-1", owner="modest")
    assert queue.count_of("greedy") == 3
    assert drained(queue) == ["modest-0", "greedy-1", "modest-1", "greedy-2", "greedy-3"]
    assert queue.count_of("greedy") == 0


def test_an_owner_that_was_away_gains_nothing_by_it():
    queue = GenerationQueue(16)
    for number in range(3):
        queue.put(f"a-{number}", owner="a")
    assert [queue.take(), queue.take()] == ["a-0", "a-1"]
    queue.put("b-0", owner="b")
    queue.put("b-1", owner="b")
    queue.put("b-2", owner="b")
    assert drained(queue) == ["b-0", "a-2", "b-1", "b-2"]


def test_what_is_put_back_runs_next_in_its_priority():
    queue = GenerationQueue(2)
    queue.put("first")
    assert queue.take() == "first"
    queue.put("second")
    queue.put("urgent", priority=7)
    queue.put_back("first")  # although the queue is full: it was admitted before
    assert drained(queue) == ["urgent", "first", "second"]


def test_what_is_put_back_last_runs_before_what_was_put_back_earlier():
    queue = GenerationQueue(4)
    queue.put_back("preempted first")
    queue.put_back("preempted second")
    assert drained(queue) == ["preempted second", "preempted first"]


def test_removed_ids_leave_no_trace():
    queue = GenerationQueue(4)
    for name in "abc":
        queue.put(name, owner="o")
    queue.remove("b")
    queue.remove("b")
    queue.remove("never there")
    assert (list(queue), queue.count_of("o"), len(queue)) == (["a", "c"], 2, 2)


def test_a_full_queue_says_when_there_may_be_room():
    queue = GenerationQueue(1, estimate_s=lambda: 12.5)
    queue.put("a")
    with pytest.raises(QueueFullError) as caught:
        queue.put("b")
    assert caught.value.retry_s == 12.5
    assert caught.value.metadata == {"waitingGenerationCount": "1", "maxWaitingGenerationCount": "1"}
    assert list(queue) == ["a"]
