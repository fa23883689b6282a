"""The process groups of a rank: control (Gloo), data (NCCL on GPUs, Gloo on CPUs), and one an axis of the mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import torch.distributed as dist

from vinf_core.distributed.topology import AXES, Axis, Topology

SETUP_TIMEOUT = timedelta(minutes=30)
"""Longest the ranks wait for each other before the first command: models load at different speeds."""

GROUP_TIMEOUT = timedelta(seconds=120)
"""Longest a rank waits in a collective: above the skew of one step and of one decoded chunk, below an operator's
patience."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Handles for collectives; all None in a world of one that never initialised torch.distributed."""

    control: dist.ProcessGroup | None
    data: dist.ProcessGroup | None
    axes: Mapping[Axis, dist.ProcessGroup] = field(default_factory=dict)
    """Of the axes that have more than one rank and fewer than all; the data group serves one that has all."""

    def axis(self, topology: Topology, name: Axis) -> dist.ProcessGroup | None:
        """Return the data group of an axis through this rank; None where it has one rank.

        Args:
            topology: this rank.
            name: of the axis.
        """
        size = topology.axis(name).world_size
        if size == 1:
            return None
        return self.data if size == topology.world_size else self.axes[name]


@contextmanager
def process_groups(topology: Topology, init_method: str = "env://") -> Iterator[Groups]:
    """Join the group of ranks, and leave it in order unless an error is under way.

    Args:
        topology: this rank.
        init_method: where the ranks meet: torchrun's environment by default, or a ``file://`` or ``tcp://`` address.

    Groups are made in the same order on every rank: making one is itself a collective. After an error no collective
    runs any more, the process is about to exit (crash-only ranks).
    """
    dist.init_process_group(
        "gloo",
        init_method=init_method,
        rank=topology.rank,
        world_size=topology.world_size,
        timeout=SETUP_TIMEOUT,
    )
    everyone = list(range(topology.world_size))
    control = dist.new_group(everyone, backend="gloo", timeout=GROUP_TIMEOUT)
    data = dist.new_group(everyone, backend=_data_backend(topology), timeout=GROUP_TIMEOUT)
    yield Groups(control=control, data=data, axes=axis_groups(topology))
    dist.destroy_process_group()


def axis_groups(topology: Topology) -> dict[Axis, dist.ProcessGroup]:
    """Make `Groups.axes`; every process of torch.distributed calls it at the same place, and makes all of them."""
    own: dict[Axis, dist.ProcessGroup] = {}
    for name in AXES:
        for ranks in sorted({replace(topology, rank=rank).along(name) for rank in range(topology.world_size)}):
            if 1 < len(ranks) < topology.world_size:
                group = dist.new_group(list(ranks), backend=_data_backend(topology), timeout=GROUP_TIMEOUT)
                if topology.rank in ranks:
                    own[name] = group
    return own


def _data_backend(topology: Topology) -> str:
    return "nccl" if topology.device.type == "cuda" else "gloo"
