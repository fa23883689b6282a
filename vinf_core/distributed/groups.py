"""The two process groups of a rank: control (Gloo) and data (NCCL on GPUs, Gloo on CPUs)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from vinf_core.distributed.topology import Topology

SETUP_TIMEOUT = timedelta(minutes=30)
"""Longest the ranks wait for each other before the first command: models load at different speeds."""

GROUP_TIMEOUT = timedelta(seconds=120)
"""Longest a rank waits in a collective: above the skew of one step, below an operator's patience."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Handles for collectives; both None in a world of one that never initialised torch.distributed."""

    control: dist.ProcessGroup | None
    data: dist.ProcessGroup | None


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
    data_backend = "nccl" if topology.device.type == "cuda" else "gloo"
    data = dist.new_group(everyone, backend=data_backend, timeout=GROUP_TIMEOUT)
    yield Groups(control=control, data=data)
    dist.destroy_process_group()
