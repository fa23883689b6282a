"""Where a rank stands in the mesh."""

from __future__ import annotations

import pytest
import torch

from tests.support.mesh import make_axes
from tests.support.ranks import RankPool
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Mesh, Topology
from vinf_core.errors import ConfigError

CPU = torch.device("cpu")


def place(rank: int, world_size: int, **sizes: int) -> Topology:
    return Topology(rank=rank, world_size=world_size, device=CPU, mesh=Mesh(**sizes))


@pytest.mark.fast
def test_context_is_fastest_then_cfg_then_clip() -> None:
    found = [(t.clip_index, t.cfg_index, t.context_index) for t in (place(r, 12, cfg=2, context=3) for r in range(12))]
    assert found == [(clip, cfg, context) for clip in range(2) for cfg in range(2) for context in range(3)]
    assert [place(rank, 12, cfg=2, context=3).is_leader for rank in range(12)] == [r in (0, 6) for r in range(12)]


@pytest.mark.fast
def test_axes_by_hand() -> None:
    rank = place(9, 12, cfg=2, context=3)
    assert rank.clip_count == 2
    assert [rank.along(axis) for axis in ("clip", "cfg", "context")] == [(3, 9), (6, 9), (9, 10, 11)]
    assert [(rank.axis(a).rank, rank.axis(a).world_size) for a in ("clip", "cfg", "context")] == [
        (1, 2),
        (1, 2),
        (0, 3),
    ]


@pytest.mark.fast
def test_without_a_mesh_every_rank_leads_a_clip() -> None:
    for rank in range(3):
        topology = place(rank, 3)
        assert topology.is_leader
        assert topology.axis("clip") == topology
        assert topology.axis("cfg") == topology.axis("context") == Topology.single()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"cfg": 2}, r"ranks: 3 is not a multiple of 2, which is cfg-ranks \(2\) times context-ranks \(1\)"),
        ({"cfg": 2, "context": 3}, "ranks: 3 is not a multiple of 6"),
        ({"cfg": 3}, "cfg-ranks: 3 is not one of 1, 2"),
        ({"context": 0}, "context-ranks: 0 is less than 1"),
    ],
)
def test_what_cannot_be_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place(0, 3, **sizes)


def sums(topology: Topology, groups: Groups, cfg: int, context: int) -> list[float]:
    axes = make_axes(topology, groups, cfg=cfg, context=context)
    bit = float(2**topology.rank)
    return [float(each.sum(torch.tensor([bit]))) for each in (axes.world, axes.clip, axes.cfg, axes.context)]


@pytest.mark.process
@pytest.mark.parametrize(
    ("ranks", "cfg", "context"), [(4, 2, 1), (4, 1, 2), (4, 2, 2), (4, 1, 4), (2, 2, 1), (3, 1, 1)]
)
def test_every_axis_joins_its_ranks(rank_pool: RankPool, ranks: int, cfg: int, context: int) -> None:
    for rank, found in enumerate(rank_pool.run(ranks, sums, cfg, context)):
        topology = place(rank, ranks, cfg=cfg, context=context)
        assert found[0] == 2**ranks - 1
        assert found[1:] == [sum(2**r for r in topology.along(axis)) for axis in ("clip", "cfg", "context")]
