"""What ranks tell each other apart from frames, over real ranks."""

from __future__ import annotations

import pytest
import torch

from tests.core.test_exchange import make_exchange
from tests.support.ranks import RankPool
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.errors import ConfigError

TENSORS = (
    torch.arange(6, dtype=torch.float64).reshape(2, 1, 3) / 7,
    torch.tensor(2.5),
    torch.empty(0, 4),
    torch.arange(8).reshape(2, 4).t(),
    *(torch.arange(5).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool)),
)


def same(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> bool:
    return len(found) == len(expected) and all(
        one.dtype == other.dtype and torch.equal(one, other) for one, other in zip(found, expected, strict=True)
    )


def gathered(topology: Topology, groups: Groups) -> tuple[list[list[float]], int]:
    exchange = make_exchange(topology, groups)
    column = torch.tensor([[topology.rank, 9.0], [topology.rank + 0.5, 9.0]], dtype=torch.float64)[:, 0]
    return [part.tolist() for part in exchange.gather(column)], exchange.received_bytes


@pytest.mark.process
def test_gather_is_in_rank_order_everywhere(rank_pool: RankPool) -> None:
    assert rank_pool.run(3, gathered) == [([[0, 0.5], [1, 1.5], [2, 2.5]], 32)] * 3


def shared(topology: Topology, groups: Groups) -> list[bool]:
    exchange = make_exchange(topology, groups)
    first = topology.rank == 0
    lists = [TENSORS, (), TENSORS[:1]]
    return [same(exchange.share(tensors if first else None), tensors) for tensors in lists]


@pytest.mark.process
def test_share_brings_shapes_dtypes_and_values(rank_pool: RankPool) -> None:
    assert rank_pool.run(3, shared) == [[True, True, True]] * 3


def handed_along(topology: Topology, groups: Groups) -> tuple[bool, int]:
    """Round the world and back to rank 0, each rank adding a tensor of its own."""
    exchange = make_exchange(topology, groups)
    rank, size = topology.rank, topology.world_size
    carried = exchange.take_over(rank - 1) if rank else TENSORS
    exchange.pass_on((*carried, torch.full((rank,), rank)), (rank + 1) % size)
    if rank:
        return same(carried[: len(TENSORS)], TENSORS), len(carried)
    carried = exchange.take_over(size - 1)
    return same(carried, TENSORS + tuple(torch.full((r,), r) for r in range(size))), len(carried)


@pytest.mark.process
def test_hand_overs_follow_each_other(rank_pool: RankPool) -> None:
    already = len(TENSORS)
    assert rank_pool.run(3, handed_along) == [(True, already + 3), (True, already + 1), (True, already + 2)]


def whole(tokens: int, heads: int, batch: int) -> torch.Tensor:
    return torch.arange(batch * tokens * heads * 2, dtype=torch.float32).reshape(batch, tokens, heads, 2)


def swapped(topology: Topology, groups: Groups, counts: list[int], heads: int, batch: int) -> tuple[bool, bool, int]:
    exchange = make_exchange(topology, groups)
    everything = whole(sum(counts), heads, batch)
    start = sum(counts[: topology.rank])
    own = everything[:, start : start + counts[topology.rank]]
    share = heads // topology.world_size
    got = exchange.swap_heads(own, counts)
    received = exchange.received_bytes
    by_heads = everything[:, :, topology.rank * share : (topology.rank + 1) * share]
    return torch.equal(got, by_heads), torch.equal(exchange.swap_tokens(got, counts), own), received


@pytest.mark.process
@pytest.mark.parametrize("counts", [[2, 2, 2], [3, 1, 0], [0, 0, 5]])
def test_heads_for_tokens_and_back(rank_pool: RankPool, counts: list[int]) -> None:
    for rank, (heads, tokens, received) in enumerate(rank_pool.run(3, swapped, counts, 6, 2)):
        assert heads
        assert tokens
        assert received == (sum(counts) - counts[rank]) * 2 * 2 * 2 * 4


def swap_badly(topology: Topology, groups: Groups) -> str:
    with pytest.raises(ConfigError) as refused:
        make_exchange(topology, groups).swap_heads(torch.zeros(1, 2, 3, 4), [2, 2])
    return str(refused.value)


@pytest.mark.process
def test_heads_that_do_not_divide_are_refused_on_every_rank(rank_pool: RankPool) -> None:
    assert (
        rank_pool.run(2, swap_badly)
        == ["context-ranks: 2 does not divide the model's 3 attention heads; allowed: 1, 3"] * 2
    )


@pytest.mark.fast
def test_a_world_of_one_keeps_everything() -> None:
    exchange: Exchange = make_exchange(Topology.single(), Groups(control=None, data=None))
    own = whole(3, 2, 1)
    assert exchange.gather(own) == [own]
    assert exchange.share([own]) == (own,)
    assert exchange.swap_heads(own, [3]) is own
    assert exchange.swap_tokens(own, [3]) is own
    assert exchange.received_bytes == 0
