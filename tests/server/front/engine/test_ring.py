"""Generations of which only so many frames are kept at a time."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.fakes import normalised_spec, until
from tests.server.front.engine.test_dispatcher import Engine, run
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_server.front.engine import intake
from vinf_server.front.generations.generation import CANCELLED, PENDING, RUNNING, SUCCEEDED, SUSPENDED, Terms

pytestmark = pytest.mark.fast

KEPT = 64


@pytest.fixture(autouse=True)
def known_model(metrics):
    metrics.model_is_known("scripted", world_size=2, dtype="float32")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(intake, "PATIENCE_S", 0.05)


def create(generations, **terms):
    spec = normalised_spec(frame_count=96)
    terms = Terms(lease_s=None, retention_frame_count=KEPT, **terms)
    return generations.create(spec, terms, request_id="", validate_only=False)[0]


async def send(engine, generation, index):
    size = generation.frames.frame_size
    frame = pb.FrameData(frame_index=index, data_size_bytes=size, data=bytes(size))
    return await engine.intake.store(generation.generation_id, frame)


def test_a_frame_waits_until_a_reader_has_made_room(generations, monkeypatch):
    monkeypatch.setattr(intake, "PATIENCE_S", 10.0)

    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        await engine.frames(generation, *range(KEPT))
        held = asyncio.create_task(send(engine, generation, KEPT))
        await asyncio.sleep(0)
        assert not held.done()
        generations.release_before(generation, 1)
        assert await held
        assert (generation.state, generation.frames.first_available) == (RUNNING, 1)

    run(scenario())


def test_when_nobody_reads_the_ranks_are_freed_until_somebody_does(generations):
    async def scenario():
        engine = Engine(generations).ready()
        slow = create(generations)
        other = create(generations)
        engine.order()
        await engine.frames(slow, *range(KEPT))
        assert not await send(engine, slow, KEPT), "a frame without room was stored"
        assert (slow.state, slow.state_reason) == (SUSPENDED, "CONSUMER_SLOW")
        assert engine.order().cancel.generation_id == slow.generation_id
        engine.finish(slow, pb.OUTCOME_CANCELLED)
        assert engine.order().generate.generation_id == other.generation_id
        # A little room would stop it again at once.
        generations.release_before(slow, 5)
        assert slow.state == SUSPENDED
        generations.release_before(slow, 20)
        assert (slow.state, slow.state_reason) == (PENDING, "QUEUED")
        engine.finish(other, pb.OUTCOME_FAILED, reason="INTERNAL", message="for the test")
        order = engine.order().generate
        assert (order.generation_id, order.first_frame_index) == (slow.generation_id, KEPT)
        await engine.frames(slow, *range(KEPT, 84))
        generations.release_before(slow, 40)
        await engine.frames(slow, *range(84, 96))
        engine.finish(slow)
        assert slow.state == SUCCEEDED

    run(scenario())


def test_two_ranks_that_wait_suspend_it_once(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        await engine.frames(generation, *range(KEPT))
        assert await asyncio.gather(*(send(engine, generation, KEPT + i) for i in range(3))) == [False] * 3
        assert [event.state for event in generation.events] == [PENDING, RUNNING, SUSPENDED]

    run(scenario())


def test_cancelled_while_a_frame_waits(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        await engine.frames(generation, *range(KEPT))
        held = asyncio.create_task(send(engine, generation, KEPT))
        await asyncio.sleep(0)
        generations.cancel(generation.generation_id)
        assert not await held
        engine.finish(generation, pb.OUTCOME_CANCELLED)
        assert generation.state == CANCELLED

    run(scenario())


def test_for_live_viewers_the_oldest_frames_are_dropped_and_nothing_waits(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations, drops_oldest=True)
        await engine.frames(generation, *range(96))
        frames = generation.frames
        assert (frames.first_available, frames.next_missing) == (96 - KEPT, 96)
        engine.finish(generation)
        assert generation.state == SUCCEEDED

    run(scenario())


def test_without_a_ring_a_release_changes_nothing(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = generations.create(
            normalised_spec(frame_count=4), Terms(lease_s=None), request_id="", validate_only=False
        )[0]
        await engine.frames(generation, 0, 1)
        generations.release_before(generation, 2)
        assert generation.frames.first_available == 0
        await until(lambda: generation.frames.next_missing == 2)

    run(scenario())
