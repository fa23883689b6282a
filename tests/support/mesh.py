"""Meshes of pooled ranks.

A mesh has axes shorter than the world only where the world is the whole pool, so that every process makes their groups.
"""

from __future__ import annotations

from dataclasses import replace

from vinf_core.distributed.axes import Axes
from vinf_core.distributed.groups import Groups, axis_groups
from vinf_core.distributed.topology import Mesh, Topology
from vinf_core.events import StageClock

_made: dict[tuple[int, int, int], Groups] = {}
"""Groups of this process by world size and mesh: making them again for each test would leave as many sockets open."""


def meshed(topology: Topology, groups: Groups, *, cfg: int = 1, context: int = 1) -> tuple[Topology, Groups]:
    """Lay a mesh over a pool's ranks; every rank calls it at the same place.

    Args:
        topology, groups: as the pool gives them.
        cfg, context: sizes of the mesh.
    """
    placed = replace(topology, mesh=Mesh(cfg=cfg, context=context))
    key = (topology.world_size, cfg, context)
    if key not in _made:
        _made[key] = Groups(control=groups.control, data=groups.data, axes=axis_groups(placed))
    return placed, _made[key]


def make_axes(topology: Topology, groups: Groups, *, cfg: int = 1, context: int = 1) -> Axes:
    """Make the exchanges of a pooled rank in a mesh."""
    placed, made = meshed(topology, groups, cfg=cfg, context=context)
    return Axes.build(placed, made, StageClock(topology.device))
