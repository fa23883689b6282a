"""What happens to generations, as numbers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from google.rpc import code_pb2
from prometheus_client import CollectorRegistry

from tests.server.fakes import create, normalised_spec
from vinf.v1 import generation_pb2
from vinf_server.front.disk import DiskSpace
from vinf_server.front.generations.generation import FAILED, Failure, Terms
from vinf_server.front.generations.generations import Generations
from vinf_server.front.generations.leases import JOB_DEADLINE, LEASE_EXPIRED
from vinf_server.front.generations.observe import GenerationObserver
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.retention import Retention
from vinf_server.front.generations.store import SqliteStore
from vinf_server.front.metrics import Metrics

pytestmark = pytest.mark.fast

TEXT = generation_pb2.GENERATION_STAGE_TEXT
DENOISE = generation_pb2.GENERATION_STAGE_DENOISE
DECODE = generation_pb2.GENERATION_STAGE_DECODE
MODEL = {"model_name": "scripted"}


@pytest.fixture(autouse=True)
def known_model(metrics):
    metrics.model_is_known("scripted", world_size=2, dtype="float32")


@pytest.fixture
def clock():
    return SimpleNamespace(now=100.0)


@pytest.fixture
def observer(metrics, clock):
    return GenerationObserver(metrics, queue_capacity=3, clock=lambda: clock.now)


@pytest.fixture
def timed(generations, observer):
    """Generations whose observer has the clock of the test."""
    generations._observe = observer
    return generations


def running(generations, **fields):
    generation = create(generations, **fields)
    assert generations.start_next() is generation
    return generation


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Failure(code_pb2.CANCELLED, "CANCEL_REQUESTED", ""), "cancelled"),
        (Failure(code_pb2.CANCELLED, LEASE_EXPIRED, ""), "lease_expired"),
        (Failure(code_pb2.DEADLINE_EXCEEDED, JOB_DEADLINE, ""), "deadline"),
        (Failure(code_pb2.UNAVAILABLE, "WORKER_LOST", ""), "failed"),
    ],
)
def test_every_end_has_its_word(generations, sample, failure, reason):
    generation = create(generations)
    generations.end_early(generation, failure)
    assert sample("vinf_generations_finished_total", finished_reason=reason, **MODEL) == 1


def test_what_new_ranks_cannot_make_was_rejected(generations, sample):
    create(generations)
    refusal = Failure(code_pb2.FAILED_PRECONDITION, "SPEC_TOO_LARGE", "too large now")
    generations.reject_waiting(lambda spec: refusal)
    assert sample("vinf_generations_finished_total", finished_reason="rejected", **MODEL) == 1
    assert sample("vinf_generation_failures_total", reason="SPEC_TOO_LARGE", **MODEL) == 1


def test_waiting_is_counted_by_priority(generations, sample):
    def waiting(priority):
        return sample("vinf_generations_waiting", priority=str(priority), **MODEL)

    for priority in (2, 9, 9):
        generations.create(normalised_spec(), Terms(priority=priority), request_id="", validate_only=False)
    assert [waiting(priority) for priority in (2, 5, 9)] == [1, 0, 2]
    generations.start_next()
    assert [waiting(priority) for priority in (2, 5, 9)] == [1, 0, 1]


def test_suspended_is_counted_by_reason_until_it_goes_on_or_ends(generations, sample):
    def suspended(reason):
        return sample("vinf_generations_suspended", reason=reason, **MODEL)

    async def scenario():
        first, second = create(generations), create(generations)
        assert generations.start_next() is first
        generations.suspend(first, "DISK_FULL", "no room")
        assert generations.start_next() is second
        generations.suspend(second, "CONSUMER_SLOW", "nobody reads")
        assert (suspended("DISK_FULL"), suspended("CONSUMER_SLOW")) == (1, 1)
        await generations.tidy()  # there is room
        assert (suspended("DISK_FULL"), suspended("CONSUMER_SLOW")) == (0, 1)
        generations.cancel(second.generation_id)
        assert suspended("CONSUMER_SLOW") == 0

    asyncio.run(scenario())


def test_stages_follow_one_another_without_a_gap(timed, sample, clock):
    def seconds(stage):
        count, total = (
            sample(f"vinf_generation_stage_duration_seconds_{part}", stage=stage, **MODEL) for part in ("count", "sum")
        )
        return total if count == 1 else None

    generation = running(timed, frame_count=8)
    clock.now += 1
    for stage, steps, lasts in ((TEXT, 0, 2), (DENOISE, 0, 4), (DENOISE, 1, 8), (DECODE, 4, 16)):
        timed.progressed(generation, stage, steps, 0.0)
        clock.now += lasts
    timed.frame_stored(generation)
    clock.now += 32
    timed.progressed(generation, DECODE, 4, 0.0)
    timed.frame_stored(generation)
    clock.now += 64
    assert seconds("deliver") is None
    generation.frames.completed_count = generation.frames.frame_count
    timed.succeed(generation)
    assert [seconds(stage) for stage in ("text", "denoise", "decode", "deliver")] == [2, 12, 16, 96]


def test_a_stage_that_was_cut_short_does_not_count(timed, sample):
    generation = running(timed)
    timed.progressed(generation, TEXT, 0, 0.0)
    timed.progressed(generation, DENOISE, 0, 0.0)
    timed.interrupt(generation)
    assert sample("vinf_generation_stage_duration_seconds_count", stage="text", **MODEL) == 1
    assert sample("vinf_generation_stage_duration_seconds_count", stage="denoise", **MODEL) == 0


def test_realtime_factor_is_what_the_steps_done_amount_to(timed, sample, clock):
    def factor():
        return sample("vinf_realtime_factor", **MODEL)

    assert factor() == 0
    generation = running(timed, frame_count=48, inference_step_count=4)  # two seconds of video
    clock.now += 1
    assert factor() == 0
    timed.progressed(generation, DENOISE, 2, 0.5)
    assert factor() == 1.0
    clock.now += 3
    assert factor() == 0.25  # it hangs
    timed.progressed(generation, DENOISE, 4, 0.5)
    assert factor() == 0.5
    timed.interrupt(generation)
    assert factor() == 0


def test_realtime_factor_counts_the_steps_of_this_run_only(timed, sample, clock):
    generation = running(timed, frame_count=48, inference_step_count=4)
    generation.completed_steps = 2
    timed._observe.resumed(generation)
    clock.now += 1
    timed.progressed(generation, DENOISE, 3, 0.5)
    assert sample("vinf_realtime_factor", **MODEL) == 0.5


def test_realtime_factor_of_a_run_that_only_decodes_counts_its_frames(timed, sample, clock):
    generation = running(timed, frame_count=48, inference_step_count=4)
    generation.completed_steps, generation.frames.completed_count = 4, 12  # then the ranks were lost
    timed._observe.resumed(generation)
    clock.now += 1
    timed.progressed(generation, DECODE, 4, 0.0)
    assert sample("vinf_realtime_factor", **MODEL) == 0
    generation.frames.completed_count = 24
    assert sample("vinf_realtime_factor", **MODEL) == 0.5


def test_clips_are_counted_by_their_frames(generations, sample):
    generation = running(generations, frame_count=16)
    generations.planned(generation, [12, 4], 2)
    assert sample("vinf_clip_frames_count", **MODEL) == 2
    assert sample("vinf_clip_frames_sum", **MODEL) == 16
    assert sample("vinf_clip_frames_bucket", le="4.0", **MODEL) == 1


def test_ranks_that_work_along_on_a_clip_have_none_of_their_own(generations, sample):
    generation = running(generations, frame_count=16)
    generations.planned(generation, [10, 0, 6, 0], 2)
    assert sample("vinf_clip_frames_count", **MODEL) == 2
    assert sample("vinf_clip_frames_sum", **MODEL) == 16


def test_a_step_is_observed_once(generations, sample):
    generation = running(generations)
    generations.progressed(generation, DENOISE, 0, 0.0)
    generations.progressed(generation, DENOISE, 1, 0.25)
    assert sample("vinf_denoise_step_duration_seconds_count", **MODEL) == 1
    assert sample("vinf_denoise_step_duration_seconds_sum", **MODEL) == 0.25


def test_pixels_make_sizes_comparable(generations, sample):
    generation = running(generations, width=64, height=32)
    for _ in range(3):
        generations.frame_stored(generation)
    assert sample("vinf_generated_pixels_total", **MODEL) == 3 * 64 * 32


def test_cancel_latency_lasts_until_the_ranks_have_stopped(timed, sample, clock):
    generation = running(timed)
    timed.cancel(generation.generation_id)
    clock.now += 0.75
    timed.cancelled(generation)
    assert sample("vinf_cancel_latency_seconds_count") == 1
    assert sample("vinf_cancel_latency_seconds_sum") == 0.75


def test_only_a_wish_that_came_true_has_a_cancel_latency(timed, sample):
    waiting = create(timed)
    timed.cancel(waiting.generation_id)
    failed = running(timed)
    timed.fail(failed, Failure(14, "WORKER_LOST", ""))
    assert failed.state == FAILED
    too_late = running(timed)
    timed.cancel(too_late.generation_id)
    too_late.frames.completed_count = too_late.frames.frame_count
    timed.succeed(too_late)
    assert sample("vinf_cancel_latency_seconds_count") == 0


def test_one_that_waits_and_ends_leaves_the_running_one_alone(generations, sample):
    first = running(generations)
    generations.set_back(first, "WORKER_LOST")
    assert sample("vinf_generations_running", **MODEL) == 0
    assert generations.start_next() is first
    second = create(generations)
    second.start_time_ns = 1  # it ran before
    generations.cancel(second.generation_id)
    assert sample("vinf_generations_running", **MODEL) == 1


def test_dropped_frames_and_what_is_left(generations, sample):
    def dropped(reason):
        return sample("vinf_spool_dropped_frames_total", reason=reason)

    async def store(generation, index):
        size = generation.frames.frame_size
        assert await generation.frames.write(index, 0, bytes(size), frame_size=size)
        generations.frame_stored(generation)

    async def scenario():
        terms = Terms(retention_frame_count=2, drops_oldest=True)
        live, _ = generations.create(normalised_spec(), terms, request_id="", validate_only=False)
        generations.start_next()
        for index in range(5):
            await store(live, index)
        assert (dropped("overflow"), dropped("released")) == (3, 0)
        generations.cancel(live.generation_id)
        generations.cancelled(live)
        kept, _ = generations.create(
            normalised_spec(), Terms(retention_frame_count=4), request_id="", validate_only=False
        )
        generations.start_next()
        for index in range(4):
            await store(kept, index)
        generations.release_before(kept, 3)
        assert (dropped("overflow"), dropped("released")) == (3, 3)
        await generations.tidy()
        size = kept.frames.frame_size
        assert (sample("vinf_spool_frames"), sample("vinf_spool_bytes")) == (3, 3 * size)
        assert sample("vinf_spool_capacity_bytes") > 3 * size

    asyncio.run(scenario())


def test_capacity_is_the_budget_where_there_is_one(generations, sample):
    generations.keeper._disk.budget_bytes = 1 << 20
    asyncio.run(generations.tidy())
    assert sample("vinf_spool_capacity_bytes") == 1 << 20


def test_times_of_a_whole_life(timed, sample):
    def seconds(name):
        return sample(f"vinf_generation_{name}_seconds_sum", **MODEL)

    assert sample("vinf_queue_capacity") == 3
    generation = create(timed)
    generation.create_time_ns -= 4_000_000_000
    timed.start_next()
    assert 4 <= seconds("queue_time") < 60
    generation.start_time_ns -= 1_000_000_000
    assert sample("vinf_generations_running", **MODEL) == 1
    timed.fail(generation, Failure(14, "WORKER_LOST", ""))
    assert seconds("queue_time") <= seconds("e2e_latency") < 60
    assert 1 <= seconds("inference_time") < 57
    assert sample("vinf_generations_running", **MODEL) == 0


def test_one_that_goes_on_waits_no_second_time(timed, sample):
    generation = running(timed)
    timed.interrupt(generation)
    assert timed.start_next() is generation
    assert sample("vinf_generation_resumes_total", **MODEL) == 1
    assert sample("vinf_generation_queue_time_seconds_count", **MODEL) == 1
    assert sample("vinf_generations_running", **MODEL) == 1


def test_what_waited_for_an_earlier_server_still_does(generations, store, spool, checkpoints, tmp_path):
    async def suspend():
        generations.suspend(running(generations), "CONSUMER_SLOW", "nobody reads")
        create(generations)
        await store.flush()

    asyncio.run(suspend())
    later, again = Metrics(CollectorRegistry()), SqliteStore(tmp_path / "vinf.db")
    try:
        restored = Generations(
            store=again,
            queue=GenerationQueue(3),
            spool=spool,
            checkpoints=checkpoints,
            disk=DiskSpace(tmp_path),
            retention=Retention(),
            metrics=later,
        )
        asyncio.run(restored.restore())
    finally:
        again.close()
    for name, labels in (("suspended", {"reason": "CONSUMER_SLOW"}), ("waiting", {"priority": "5"})):
        assert later.registry.get_sample_value(f"vinf_generations_{name}", {**labels, **MODEL}) == 1
