"""What a stop does to the generation in work."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.server.fakes import create
from tests.server.front.engine.test_dispatcher import Engine, run, save_checkpoint
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_server.front.engine.drain import finish_or_save
from vinf_server.front.generations.generation import PENDING, RUNNING, SUCCEEDED

pytestmark = pytest.mark.fast


def drain(engine, *, finish_s, save_s):
    now = time.monotonic()
    return asyncio.create_task(finish_or_save(engine.dispatcher, finish_by=now + finish_s, save_by=now + save_s))


def step(engine, generation, number, seconds):
    progress = pb.ProgressReport(
        generation_id=generation.generation_id,
        stage=pb.STAGE_DENOISE,
        completed_step_count=number,
        step_seconds=seconds,
    )
    engine.group.take_report(pb.AttachRequest(progress=progress))
    engine.report(progress=progress)


def test_generation_that_can_end_is_waited_for_and_nothing_follows(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation, waiting = create(generations, frame_count=1), create(generations)
        engine.order()
        draining = drain(engine, finish_s=30, save_s=30)
        step(engine, generation, 3, 0.1)
        await engine.frames(generation, 0)
        assert not draining.done()
        engine.finish(generation)
        await draining
        assert (generation.state, waiting.state) == (SUCCEEDED, PENDING)
        assert engine.order() is None

    run(scenario())


def test_generation_that_cannot_end_saves_a_checkpoint_at_once(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        engine.order()
        step(engine, generation, 1, 20.0)
        draining = drain(engine, finish_s=30, save_s=40)
        order = await asyncio.wait_for(engine.group.next_order(), 5)
        assert order.cancel.save
        await save_checkpoint(generation, 2)
        engine.finish(generation, pb.OUTCOME_CANCELLED)
        await draining
        assert (generation.state, generation.state_reason) == (PENDING, "SERVER_RESTARTED")

    run(scenario())


def test_generation_that_neither_ends_nor_stops_is_cut_off(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        engine.order()
        started = time.monotonic()
        await drain(engine, finish_s=0.05, save_s=0.2)
        assert time.monotonic() - started < 2
        assert engine.order().cancel.save
        assert generation.state == RUNNING

    run(scenario())


def test_idle_server_waits_for_nothing_and_hands_nothing_out(generations):
    async def scenario():
        engine = Engine(generations).ready()
        await drain(engine, finish_s=30, save_s=30)
        assert create(generations).state == PENDING

    run(scenario())
