"""A rank's ways to the other ranks: along each axis of the mesh, and to the whole world."""

from __future__ import annotations

from dataclasses import dataclass

from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import AXES, Mesh, Topology
from vinf_core.errors import ConfigError
from vinf_core.events import StageClock


@dataclass(frozen=True, slots=True)
class Axes:
    """The exchanges of one rank; those along an axis of one rank do nothing."""

    world: Exchange
    """All ranks."""
    clip: Exchange
    """One rank of each clip; the world's own where a clip has one rank."""
    cfg: Exchange
    """The ranks that divide the guidance of this rank's clip."""
    context: Exchange
    """The ranks that divide the tokens of this rank's clip."""

    @classmethod
    def build(cls, topology: Topology, groups: Groups, clock: StageClock) -> Axes:
        """Make the exchanges of a rank.

        Args:
            topology: this rank.
            groups: made for it.
            clock: credits the time of all of them.
        """
        world = Exchange(topology, groups.data, clock)
        clip, cfg, context = (
            world
            if topology.axis(name).world_size == topology.world_size
            else Exchange(topology.axis(name), groups.axis(topology, name), clock)
            for name in AXES
        )
        return cls(world, clip, cfg, context)

    @classmethod
    def alone(cls, world: Exchange) -> Axes:
        """Describe a world without a mesh: its ranks have a clip each.

        Raises:
            ConfigError: the world has a mesh, whose other axes nobody gave.
        """
        if world.topology.mesh != Mesh():
            raise ConfigError("mesh: a rank of a mesh needs an exchange for each axis")
        inert = Exchange(Topology.single(world.device), None, world.clock)
        return cls(world, world, inert, inert)

    @property
    def each(self) -> tuple[Exchange, ...]:
        """All of them once, the world's first; in the same order on every rank."""
        return tuple({id(exchange): exchange for exchange in (self.world, self.clip, self.cfg, self.context)}.values())

    def begin_generation(self) -> None:
        """Drop what was kept for the plans of the generation before."""
        for exchange in self.each:
            exchange.begin_generation()

    def barrier(self) -> None:
        """Wait for every rank, along every axis."""
        for exchange in self.each:
            exchange.barrier()

    @property
    def operation_count(self) -> int:
        """Operations on all axes so far: it grows while this rank makes progress."""
        return sum(each.exchange_count + each.reduction_count + each.transfer_count for each in self.each)
