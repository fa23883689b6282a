"""Frame plans and the exchange over real ranks."""

from __future__ import annotations

import pytest
import torch

from tests.support.ranks import RankPool
from vinf_core.context.partition import clips_of
from vinf_core.distributed.exchange import Exchange, FramePlan
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology, select_device
from vinf_core.errors import ConfigError
from vinf_core.events import StageClock
from vinf_core.types import Stage

NEEDS = (frozenset(range(5)), frozenset({0, 2, 3, 4, 5}), frozenset({0, 3}), frozenset[int]())


def make_exchange(topology: Topology, groups: Groups) -> Exchange:
    return Exchange(topology, groups.data, StageClock(topology.device))


@pytest.mark.fast
def test_plan_by_hand() -> None:
    clips = clips_of([2, 2, 2])
    plan = FramePlan.build(clips, NEEDS[:3], 1)
    assert plan.sends == ((0, (0, 1)), (2, (1,)))
    assert plan.receives == ((0, 1), (2, 2))
    assert plan.frames == (0, 2, 3, 4, 5)


@pytest.mark.fast
def test_what_one_sends_the_other_expects() -> None:
    clips = clips_of([2, 2, 2, 0])
    plans = [FramePlan.build(clips, NEEDS, rank) for rank in range(4)]
    for rank, plan in enumerate(plans):
        for peer, frames in plan.sends:
            assert (rank, len(frames)) in plans[peer].receives


def exchanged(topology: Topology, groups: Groups, counts: list[int]) -> tuple[list[float], tuple[int, ...], int]:
    clips = clips_of(counts)
    plan = FramePlan.build(clips, NEEDS[: len(counts)], topology.rank)
    own = torch.tensor([float(f) for f in clips[topology.rank].frames]).reshape(1, -1, 1)
    exchange = make_exchange(topology, groups)
    return exchange.with_context(own, plan).flatten().tolist(), plan.frames, exchange.received_bytes


def dealt(topology: Topology, groups: Groups, counts: list[int], needs: tuple[frozenset[int], ...]) -> list[float]:
    clips = clips_of(counts)
    own = torch.tensor([float(f) for f in clips[topology.rank].frames]).reshape(-1, 1)
    return make_exchange(topology, groups).deal(own, clips, needs).flatten().tolist()


def summed(topology: Topology, groups: Groups) -> float:
    return float(make_exchange(topology, groups).sum(torch.tensor([float(topology.rank + 1)])))


@pytest.mark.process
def test_context_arrives_in_frame_order(rank_pool: RankPool) -> None:
    for values, frames, received in rank_pool.run(4, exchanged, [2, 2, 2, 0]):
        assert values == list(frames)
        assert received == 4 * (len(frames) - min(2, len(frames)))


@pytest.mark.process
def test_deal_moves_every_frame_to_those_who_need_it(rank_pool: RankPool) -> None:
    needs = (frozenset({0, 1, 6}), frozenset({1, 2, 3}), frozenset({4, 5}))
    assert rank_pool.run(3, dealt, [5, 0, 2], needs) == [[0, 1, 6], [1, 2, 3], [4, 5]]


@pytest.mark.process
def test_sum_is_the_same_everywhere(rank_pool: RankPool) -> None:
    assert rank_pool.run(4, summed) == [10.0] * 4


@pytest.mark.fast
def test_a_world_of_one_exchanges_nothing() -> None:
    exchange = make_exchange(Topology.single(), Groups(control=None, data=None))
    own = torch.ones(1, 3, 2)
    assert exchange.with_context(own, FramePlan.build(clips_of([3]), (frozenset({0, 1, 2}),), 0)) is own
    assert float(exchange.sum(torch.tensor([3.0]))) == 3.0


@pytest.mark.fast
def test_devices() -> None:
    assert select_device("cpu", 3, 4) == torch.device("cpu")
    with pytest.raises(ConfigError, match="auto, cpu, cuda"):
        select_device("tpu", 0, 1)
    with pytest.raises(ConfigError, match="ranks: 99 is more than"):
        select_device("cuda", 98, 99)


@pytest.mark.fast
def test_a_nested_stage_counts_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 11.0, 14.0, 14.5])
    monkeypatch.setattr("vinf_core.stage_clock.time.perf_counter", lambda: next(now))
    clock = StageClock(torch.device("cpu"))
    with clock.measure(Stage.DENOISE), clock.measure(Stage.COMMUNICATE):
        pass
    assert clock.seconds[Stage.COMMUNICATE] == 3.0
    assert clock.seconds[Stage.DENOISE] == 1.5
