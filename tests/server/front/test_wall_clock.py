"""Case 73: the wall clock is set by an hour, forwards or back, while generations wait and run."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.server.fakes import model_limits, normalised_spec
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf.v1 import generation_pb2
from vinf_server.front.engine.group import Group
from vinf_server.front.generations.generation import Terms
from vinf_server.front.generations.limits import CreateRate

pytestmark = pytest.mark.fast


@pytest.fixture(params=[3600, -3600], ids=["forwards", "back"])
def jump(request, monkeypatch):
    """Sets the clock when it is called."""
    wall, wall_ns = time.time, time.time_ns

    def jump():
        monkeypatch.setattr(time, "time", lambda: wall() + request.param)
        monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + request.param * 10**9)

    return jump


def test_case_73_no_rank_is_taken_for_hung(jump):
    async def scenario():
        group = Group(1, 2)
        group.take_ready(pb.ReadyReport(world_size=2, model=model_limits()))
        for rank in range(2):
            group.take_beat(pb.BeatRequest(rank=rank, pid=100 + rank, device="cpu"))
        order = pb.GenerateOrder(generation_id="g", frame_count=16, width=64, height=64)
        group.send(pb.AttachResponse(generate=order))
        group.check()
        jump()
        group.check()
        assert not group.lost.done()

    asyncio.run(scenario())


def test_case_73_no_lease_ends_and_no_order_changes(generations, jump, sample):
    made = [
        generations.create(normalised_spec(), request_id="", validate_only=False, terms=Terms(lease_s=60.0))[0]
        for _ in range(2)
    ]
    generations.start_next()
    jump()
    generations.leases.check()
    made.append(generations.create(normalised_spec(), request_id="", validate_only=False)[0])
    assert [generation.is_terminal for generation in made] == [False] * 3
    assert len({generation.generation_id for generation in made}) == 3
    assert sorted(made, key=lambda generation: generation.generation_id) == made
    generations.cancelled(made[0])
    assert made[0].state == generation_pb2.GENERATION_STATE_CANCELLED
    assert sample("vinf_generation_e2e_latency_seconds_sum", model_name="scripted") >= 0


def test_case_73_no_client_gets_more_calls_or_fewer(jump):
    rate = CreateRate(60)
    for _ in range(59):
        rate.take("somebody")
    jump()
    rate.take("somebody")
    with pytest.raises(Exception, match="60 times a minute"):
        rate.take("somebody")
