"""What every rank was busy with, out of its beats."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.engine.group import Group, Loss
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.metrics.ranks import STAGES
from vinf_server.front.web import lanes as lanes_module
from vinf_server.front.web.lanes import Lanes

pytestmark = pytest.mark.fast


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    fake = SimpleNamespace(monotonic=lambda: now[0], time_ns=lambda: int(now[0] * 1e9))
    monkeypatch.setattr(lanes_module, "time", fake)
    return now


def beat(rank, *, denoise=0.0, decode=0.0, frames=0, device="cuda:0"):
    return link_pb2.BeatRequest(
        rank=rank,
        device=device,
        busy_seconds={"denoise": denoise, "decode": decode},
        frame_count=frames,
        memory_used_bytes=5,
        memory_total_bytes=10,
    )


def play(clock, scenario):
    """Run something with a group of two ranks."""

    async def run():
        status = EngineStatus()
        status.group = Group(1, 2, monotonic=lambda: clock[0])
        lanes = Lanes(status)

        def take(*beats, after=1.0):
            clock[0] += after
            status.group.clock.tick()
            for each in beats:
                status.group.take_beat(each)
            lanes.look()

        scenario(status, lanes, take)

    asyncio.run(run())


def test_a_sample_is_what_lies_between_two_beats(clock):
    def scenario(_status, lanes, take):
        take(beat(0, denoise=5, frames=100), beat(1))
        assert lanes.since(0) == [], "nothing to compare with"
        take(beat(0, denoise=5.5, decode=0.25, frames=110))
        (sample,) = lanes.since(0)
        assert sample.rank == 0
        assert sample.seconds == pytest.approx(1)
        assert dict(zip(STAGES, sample.busy, strict=True)) == pytest.approx(
            {stage: {"denoise": 0.5, "decode": 0.25}.get(stage, 0) for stage in STAGES}
        )
        assert sample.frames_per_second == pytest.approx(10)
        assert sample.end_ms == int(clock[0] * 1000)
        lanes.look()
        assert len(lanes.since(0)) == 1, "the same beat is taken once"
        take(beat(1, denoise=1))
        assert [each.rank for each in lanes.since(sample.sequence)] == [1]
        assert len(sample.to_json()[3]) == len(STAGES)

    play(clock, scenario)


def test_the_next_processes_begin_their_counts_anew(clock):
    def scenario(status, lanes, take):
        take(beat(0, denoise=50), beat(1))
        take(beat(0, denoise=51))
        assert lanes.describe()[0]["up"]
        status.group.lose(Loss(message="", cause="exit"))
        take(beat(0, denoise=52))
        assert not lanes.describe()[0]["up"]
        status.group = Group(2, 1, monotonic=lambda: clock[0])
        take(beat(0, denoise=0.2))
        take(beat(0, denoise=0.7))
        assert [each.busy[STAGES.index("denoise")] for each in lanes.since(0)] == pytest.approx([1, 0.5])
        assert [each["rank"] for each in lanes.describe()] == [0], "there is one rank now"

    play(clock, scenario)


def test_ranks_that_were_lost_stay_with_what_they_did(clock):
    """The page keeps their rows, and what they were busy with, until the next group is there."""

    def scenario(status, lanes, take):
        assert lanes.describe() == []
        take(beat(0, denoise=1), beat(1, denoise=1))
        take(beat(0, denoise=2), beat(1, denoise=2))
        assert [each["up"] for each in lanes.describe()] == [True, True]
        status.group.lose(Loss(message="", cause="signal"))
        status.group = None
        lanes.look()
        assert [(each["rank"], each["device"], each["up"]) for each in lanes.describe()] == [
            (0, "cuda:0", False),
            (1, "cuda:0", False),
        ]
        status.group = Group(2, 2, monotonic=lambda: clock[0])
        take(beat(1))
        assert [(each["rank"], each["up"]) for each in lanes.describe()] == [(0, False), (1, True)]
        assert len(lanes.since(0)) == 2

    play(clock, scenario)


def test_a_silent_rank_is_down_and_no_ring_grows(clock, monkeypatch):
    def scenario(_status, lanes, take):
        take(beat(0), beat(1))
        for count in range(400):
            take(beat(0, denoise=count / 2))
        up = {each["rank"]: each["up"] for each in lanes.describe()}
        assert up == {0: True, 1: False}
        assert len(lanes.since(0)) == lanes_module._MOST_SAMPLES

    play(clock, scenario)


def test_before_a_rank_has_chosen_its_device_it_does_nothing(clock):
    def scenario(status, lanes, take):
        take(beat(0, device=""))
        take(beat(0, device=""))
        assert lanes.since(0) == []
        assert not lanes.describe()[0]["up"]

    play(clock, scenario)
