"""Who this rank is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vinf_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """Answers every question about ranks; a world of one is an ordinary value, not a special case."""

    rank: int
    world_size: int
    device: torch.device

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank: {self.rank} is not in [0, {self.world_size - 1}]")

    @classmethod
    def single(cls, device: str | torch.device = "cpu") -> Topology:
        """The world of one rank."""
        return cls(rank=0, world_size=1, device=torch.device(device))

    @property
    def is_coordinator(self) -> bool:
        """Whether this is rank 0, the one that decides."""
        return self.rank == 0


def select_device(kind: str, local_rank: int, local_world_size: int) -> torch.device:
    """Give a rank its device.

    Args:
        kind: ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA where this host has any.
        local_rank: the rank's number on this host.
        local_world_size: ranks on this host.

    Raises:
        ConfigError: unknown kind, or more ranks than CUDA devices on this host.
    """
    if kind not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device: {kind!r} is not one of auto, cpu, cuda")
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    available = torch.cuda.device_count()
    if local_world_size > available:
        raise ConfigError(f"ranks: {local_world_size} is more than the {available} CUDA devices of this host")
    return torch.device("cuda", local_rank)
