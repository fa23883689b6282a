"""Admission, idempotency, the queue and the states."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.server.fakes import create, normalised_spec
from vinf_server.front.errors import (
    GenerationNotFoundError,
    QueueFullError,
    RequestIdReusedError,
    ServerDrainingError,
)
from vinf_server.front.generations.generation import (
    CANCELLED,
    CANCELLING,
    FAILED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    TERMINAL,
    Failure,
    IdSource,
)

pytestmark = pytest.mark.fast

REQUEST_ID = "123e4567-e89b-12d3-a456-426614174000"
FAILURE = Failure(14, "WORKER_LOST", "rank 1 is gone")


@pytest.fixture(autouse=True)
def known_model(metrics):
    metrics.model_is_known("scripted", world_size=2, dtype="float32")


def test_ids_sort_by_time():
    ids = [IdSource().next() for _ in range(3)] and [*itertools.islice(iter(IdSource().next, None), 1000)]
    assert ids == sorted(set(ids))
    assert all(len(generation_id) <= 64 for generation_id in ids)


def test_server_picks_and_shows_a_seed(generations):
    assert create(generations).resolved_spec.seed in range(1, 2**63)
    assert create(generations, seed=9).resolved_spec.seed == 9


def test_queue_is_first_come_first_served_and_bounded(generations, sample):
    waiting = [create(generations) for _ in range(3)]
    with pytest.raises(QueueFullError) as caught:
        create(generations)
    assert caught.value.metadata == {"waitingGenerationCount": "3", "maxWaitingGenerationCount": "3"}
    assert [generations.queue_position(g) for g in waiting] == [0, 1, 2]
    assert sample("vinf_generations_waiting", model_name="scripted", priority="5") == 3
    assert generations.start_next() is waiting[0]
    assert [generations.queue_position(g) for g in waiting[1:]] == [1, 2]
    assert (generations.waiting_count, generations.running_count) == (2, 1)


def test_same_request_id_gives_the_same_generation(generations):
    first = create(generations, request_id=REQUEST_ID)
    again, deduplicated = generations.create(normalised_spec(), request_id=REQUEST_ID, validate_only=False)
    assert deduplicated
    assert again is first
    assert generations.waiting_count == 1


def test_same_request_id_is_answered_when_nothing_new_is(generations):
    first = create(generations, request_id=REQUEST_ID)
    for _ in range(2):
        create(generations)
    generations.drain()
    assert create(generations, request_id=REQUEST_ID) is first
    with pytest.raises(ServerDrainingError):
        create(generations)


def test_request_id_of_another_specification(generations):
    create(generations, request_id=REQUEST_ID)
    with pytest.raises(RequestIdReusedError):
        create(generations, request_id=REQUEST_ID, width=128)


def test_validate_only_queues_nothing_but_sees_a_full_queue(generations):
    generation, _ = generations.create(normalised_spec(), request_id=REQUEST_ID, validate_only=True)
    assert generation.generation_id == ""
    assert generations.waiting_count == 0
    assert create(generations, request_id=REQUEST_ID).generation_id != ""
    for _ in range(2):
        create(generations)
    with pytest.raises(QueueFullError):
        generations.create(normalised_spec(), request_id="", validate_only=True)


def test_unknown_id(generations):
    with pytest.raises(GenerationNotFoundError):
        generations.get("no such")


def test_pages_are_newest_first(generations):
    made = []
    for _ in range(5):
        made.append(create(generations))
        generations.cancel(made[-1].generation_id)
    last = create(generations)
    first_page = generations.page(before_id="", states=(), limit=4)
    assert first_page == [last, *made[:1:-1]]
    assert generations.page(before_id=first_page[-1].generation_id, states=(), limit=4) == [made[1], made[0]]
    assert generations.page(before_id="", states={PENDING}, limit=4) == [last]


def test_cancel_while_pending(generations, sample):
    generation, other = create(generations), create(generations)
    assert generations.cancel(generation.generation_id).state == CANCELLED
    assert generation.failure.reason == "CANCEL_REQUESTED"
    assert generations.queue_position(other) == 0
    assert generations.start_next() is other
    assert sample("vinf_generations_finished_total", model_name="scripted", finished_reason="cancelled") == 1


def test_cancel_of_a_finished_one_changes_nothing(generations):
    generation = create(generations)
    generations.start_next()
    generations.fail(generation, FAILURE)
    assert generations.cancel(generation.generation_id).state == FAILED
    assert generation.failure == FAILURE


def test_cancel_while_running_asks_once(generations):
    asked = []

    class Listener:
        def generation_queued(self):
            pass

        def cancel_requested(self, generation):
            asked.append(generation)

    generations.subscribe(Listener())
    generation = create(generations)
    generations.start_next()
    for _ in range(2):
        assert generations.cancel(generation.generation_id).state == CANCELLING
    assert asked == [generation]
    generations.cancelled(generation)
    assert generation.state == CANCELLED


def test_group_lost_while_cancelling_counts_as_cancelled(generations):
    generation = create(generations)
    generations.start_next()
    generations.cancel(generation.generation_id)
    generations.fail(generation, FAILURE)
    assert generation.state == CANCELLED


def test_failure_is_counted_by_reason(generations, sample):
    generation = create(generations)
    generations.start_next()
    generations.fail(generation, FAILURE)
    assert sample("vinf_generation_failures_total", model_name="scripted", reason="WORKER_LOST") == 1
    assert sample("vinf_generations_running", model_name="scripted") == 0
    assert sample("vinf_generation_e2e_latency_seconds_count", model_name="scripted") == 1


@pytest.mark.parametrize(
    ("before", "after"), [(PENDING, SUCCEEDED), (SUCCEEDED, RUNNING), (FAILED, CANCELLED), (CANCELLING, RUNNING)]
)
def test_impossible_transition_is_a_bug(generations, before, after):
    generation = create(generations)
    generation.state = before
    with pytest.raises(AssertionError):
        generation.move_to(after)


def test_terminal_states_are_final(generations):
    generation = create(generations)
    for state in TERMINAL:
        generation.state = state
        for other in (PENDING, RUNNING, CANCELLING, SUCCEEDED, FAILED, CANCELLED):
            with pytest.raises(AssertionError):
                generation.move_to(other)


def test_first_frame_and_intervals_are_observed(generations, sample):
    generation = create(generations)
    generations.start_next()
    for _ in range(3):
        generations.frame_stored(generation)
    assert sample("vinf_time_to_first_frame_seconds_count", model_name="scripted") == 1
    assert sample("vinf_inter_frame_latency_seconds_count", model_name="scripted") == 2
    assert sample("vinf_generated_frames_total", model_name="scripted") == 3


def test_every_change_wakes_who_waits(generations):
    async def scenario():
        generation, other = create(generations), create(generations)
        for change in (
            generations.start_next,
            lambda: generations.planned(generation, [8, 8], 2),
            lambda: generations.progressed(generation, 3, 1, 0.5),
            lambda: generations.frame_stored(generation),
            lambda: generations.cancel(generation.generation_id),
            lambda: generations.cancelled(generation),
        ):
            waiting = asyncio.create_task(generation.changed.wait(timeout_s=10))
            await asyncio.sleep(0)
            change()
            assert await waiting
        waiting = asyncio.create_task(other.changed.wait(timeout_s=10))
        await asyncio.sleep(0)
        generations.drain()
        assert await waiting

    asyncio.run(scenario())
