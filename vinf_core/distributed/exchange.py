"""The data plane: frames that neighbours need, and sums over all ranks.

Every rank plans the same traffic from the same numbers, so there is nothing to negotiate: one message to each peer that
needs frames of ours, one from each peer whose frames we need, all posted at once (NCCL groups them).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from vinf_core.distributed.topology import Topology
from vinf_core.events import StageClock
from vinf_core.types import Clip, Stage


@dataclass(frozen=True, slots=True)
class FramePlan:
    """Which frames travel between this rank and its peers in one exchange.

    Frame numbers in ``sends`` count from the start of this rank's clip, everywhere else from the start of the video.
    """

    sends: tuple[tuple[int, tuple[int, ...]], ...]
    """(peer, own frames it needs), in rank order."""
    receives: tuple[tuple[int, int], ...]
    """(peer, number of its frames we need), in rank order."""
    frames: tuple[int, ...]
    """What `Exchange.with_context` returns, ascending: our own frames and the received ones."""

    @classmethod
    def build(cls, clips: tuple[Clip, ...], needs: tuple[frozenset[int], ...], rank: int) -> FramePlan:
        """Plan one exchange for ``rank``.

        Args:
            clips: every rank's clip, contiguous and in rank order.
            needs: for every rank the frames it wants to see; its own ones are understood, others' are fetched.
            rank: the rank to plan for.
        """
        own = clips[rank]
        sends = []
        receives = []
        frames = set(own.frames)
        for peer, clip in enumerate(clips):
            if peer == rank:
                continue
            wanted_of_us = tuple(f - own.start for f in own.frames if f in needs[peer])
            if wanted_of_us:
                sends.append((peer, wanted_of_us))
            wanted = [f for f in clip.frames if f in needs[rank]]
            if wanted:
                receives.append((peer, len(wanted)))
                frames.update(wanted)
        return cls(sends=tuple(sends), receives=tuple(receives), frames=tuple(sorted(frames)))


CACHED_INDICES = 64
"""A generation needs two for each peer it has traffic with; old generations' are dropped together."""


class Exchange:
    """Moves frames and sums between ranks over the data group; inert in a world of one."""

    def __init__(self, topology: Topology, group: dist.ProcessGroup | None, clock: StageClock) -> None:
        self._topology = topology
        self._group = group if topology.world_size > 1 else None
        self._clock = clock
        self._indices: dict[tuple[int, ...], torch.Tensor] = {}
        self.exchange_count = 0
        """Frame exchanges so far."""
        self.reduction_count = 0
        """All-reduces so far."""
        self.received_bytes = 0
        """Bytes of frames received so far."""

    def with_context(self, own: torch.Tensor, plan: FramePlan) -> torch.Tensor:
        """Return this rank's frames together with the planned frames of its peers, ascending by frame.

        Args:
            own: ``[B, f, ...]``, the frames of this rank's clip.
            plan: the same exchange planned on every rank.

        Returns:
            ``[B, len(plan.frames), ...]``.
        """
        self.exchange_count += 1
        if self._group is None or not (plan.sends or plan.receives):
            return own
        with self._clock.measure(Stage.COMMUNICATE):
            operations = []
            for peer, frames in plan.sends:
                chosen = own.index_select(1, self._index(frames))
                operations.append(dist.P2POp(dist.isend, chosen, group=self._group, group_peer=peer))
            before: list[torch.Tensor] = []
            after: list[torch.Tensor] = []
            for peer, count in plan.receives:
                buffer = own.new_empty((own.shape[0], count, *own.shape[2:]))
                self.received_bytes += buffer.numel() * buffer.element_size()
                (before if peer < self._topology.rank else after).append(buffer)
                operations.append(dist.P2POp(dist.irecv, buffer, group=self._group, group_peer=peer))
            for work in dist.batch_isend_irecv(operations):
                work.wait()
        return torch.cat([*before, own, *after], dim=1)

    def _index(self, frames: tuple[int, ...]) -> torch.Tensor:
        """The frames as an index on the device; kept, because copying one there makes the host wait."""
        if frames not in self._indices:
            if len(self._indices) >= CACHED_INDICES:
                self._indices.clear()
            self._indices[frames] = torch.tensor(frames, device=self._topology.device)
        return self._indices[frames]

    def deal(self, own: torch.Tensor, clips: tuple[Clip, ...], owners: tuple[int, ...]) -> torch.Tensor:
        """Deal frames out anew: every frame goes to the rank that ``owners`` names for it.

        Args:
            own: ``[f, ...]``, the frames of this rank's clip.
            clips: every rank's clip.
            owners: for every frame of the video the rank that gets it.

        Returns:
            ``[n, ...]``: the frames dealt to this rank, ascending by frame.
        """
        needs = tuple(frozenset(f for f, owner in enumerate(owners) if owner == rank) for rank in range(len(clips)))
        plan = FramePlan.build(clips, needs, self._topology.rank)
        everything = self.with_context(own[None], plan)[0]
        mine = [i for i, f in enumerate(plan.frames) if owners[f] == self._topology.rank]
        return everything[mine]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add ``values`` up over all ranks, in place; the result is the same on every rank."""
        self.reduction_count += 1
        if self._group is not None:
            with self._clock.measure(Stage.COMMUNICATE):
                dist.all_reduce(values, op=dist.ReduceOp.SUM, group=self._group)
        return values

    def barrier(self) -> None:
        """Wait for every rank; sets up the communicator as a side effect, so that no timed step pays for it."""
        self.sum(torch.zeros(1, device=self._topology.device))
