"""Who this rank is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from vinf_core.errors import ConfigError

Axis = Literal["clip", "cfg", "context"]
"""What ranks can share out: the video's clips, the halves of the guidance, the tokens of a clip."""

AXES: tuple[Axis, ...] = ("clip", "cfg", "context")

CFG_RANKS = (1, 2)
"""Ranks that the guidance can be divided over: it has two halves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mesh:
    """How many ranks work on one clip, and how they divide it; the clips take what is left of the world.

    A rank's number is ``(clip_index * cfg + cfg_index) * context + context_index``: the ranks that talk most are
    neighbours, so that the fastest links join them.
    """

    cfg: int = 1
    """Ranks that divide the two halves of the guidance: 1 or 2."""
    context: int = 1
    """Ranks that divide the tokens of a clip (Ulysses)."""

    def __post_init__(self) -> None:
        if self.cfg not in CFG_RANKS:
            raise ConfigError(f"cfg-ranks: {self.cfg} is not one of {', '.join(map(str, CFG_RANKS))}")
        if self.context < 1:
            raise ConfigError(f"context-ranks: {self.context} is less than 1")

    @property
    def clip_ranks(self) -> int:
        """Ranks that work on one clip."""
        return self.cfg * self.context

    def clip_count(self, world_size: int) -> int:
        """Clips that a world of so many ranks cuts a video into.

        Raises:
            ConfigError: the ranks cannot be shared out evenly.
        """
        if world_size % self.clip_ranks:
            raise ConfigError(
                f"ranks: {world_size} is not a multiple of {self.clip_ranks}, which is cfg-ranks ({self.cfg}) times "
                f"context-ranks ({self.context})"
            )
        return world_size // self.clip_ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """Answers every question about ranks; a world of one is an ordinary value, not a special case."""

    rank: int
    world_size: int
    device: torch.device
    mesh: Mesh = field(default_factory=Mesh)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank: {self.rank} is not in [0, {self.world_size - 1}]")
        self.mesh.clip_count(self.world_size)

    @classmethod
    def single(cls, device: str | torch.device = "cpu") -> Topology:
        """The world of one rank."""
        return cls(rank=0, world_size=1, device=torch.device(device))

    @property
    def is_coordinator(self) -> bool:
        """Whether this is rank 0, the one that decides."""
        return self.rank == 0

    @property
    def clip_count(self) -> int:
        """Clips that the world cuts a video into."""
        return self.mesh.clip_count(self.world_size)

    @property
    def clip_index(self) -> int:
        """Which clip this rank works on."""
        return self.rank // self.mesh.clip_ranks

    @property
    def cfg_index(self) -> int:
        """Which half of the guidance this rank computes."""
        return self.rank // self.mesh.context % self.mesh.cfg

    @property
    def context_index(self) -> int:
        """Which part of its clip's tokens this rank computes."""
        return self.rank % self.mesh.context

    @property
    def is_leader(self) -> bool:
        """Whether this is the first rank of its clip, which keeps and shows what all ranks of the clip hold alike."""
        return self.rank % self.mesh.clip_ranks == 0

    def axis(self, name: Axis) -> Topology:
        """Return the world of the ranks that differ from this one along an axis alone, in order; it has no mesh."""
        index, size = {
            "clip": (self.clip_index, self.clip_count),
            "cfg": (self.cfg_index, self.mesh.cfg),
            "context": (self.context_index, self.mesh.context),
        }[name]
        return Topology(rank=index, world_size=size, device=self.device)

    def along(self, name: Axis) -> tuple[int, ...]:
        """Name the ranks of `axis` by their numbers in the world, this one among them."""
        distance = {"clip": self.mesh.clip_ranks, "cfg": self.mesh.context, "context": 1}[name]
        axis = self.axis(name)
        first = self.rank - axis.rank * distance
        return tuple(range(first, first + axis.world_size * distance, distance))


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
