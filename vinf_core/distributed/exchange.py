"""The data plane: frames that neighbours need; what ranks tell each other besides is in `collectives`.

Every rank plans the same traffic from the same numbers, so there is nothing to negotiate: one message to each peer that
needs frames of ours, one from each peer whose frames we need, all posted at once (NCCL groups them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from vinf_core.distributed.collectives import Collectives
from vinf_core.distributed.topology import Topology
from vinf_core.events import Measured, StageClock
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
    """Our own frames and the received ones, ascending."""

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

    @property
    def span(self) -> range:
        """From the first frame to the last one."""
        return range(self.frames[0], self.frames[-1] + 1) if self.frames else range(0)


class UnderWay:
    """Frames that travel; what does not need them can be computed meanwhile."""

    def __init__(
        self,
        clock: StageClock,
        works: Sequence[dist.Work] = (),
        sent: Sequence[torch.Tensor] = (),
        before: Sequence[torch.Tensor] = (),
        after: Sequence[torch.Tensor] = (),
        posted: Measured | None = None,
    ) -> None:
        self._clock = clock
        self._works = works
        self._sent = sent  # kept until it is certain that nobody reads them any more
        self._before = before
        self._after = after
        self._posted = posted

    def wait(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the received frames before and after our own, ``[B, n, ...]`` each, None where there are none.

        On a GPU nothing waits but the stream.
        """
        if self._works:
            with self._clock.measure(Stage.COMMUNICATE, "wait", since=self._posted):
                for work in self._works:
                    work.wait()
            self._works, self._sent = (), ()
        return _joined(self._before), _joined(self._after)


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


class Exchange(Collectives):
    """Moves frames, sums and whole tensors between ranks over a data group; inert in a world of one."""

    def __init__(self, topology: Topology, group: dist.ProcessGroup | None, clock: StageClock) -> None:
        super().__init__(topology, group, clock)
        self._indices: dict[tuple[int, ...], torch.Tensor] = {}
        self.exchange_count = 0
        """Frame exchanges so far."""

    def begin_generation(self) -> None:
        """Drop what was kept for the plans of the generation before."""
        self._indices.clear()

    def begin(self, own: torch.Tensor, plan: FramePlan) -> UnderWay:
        """Post all sends and receives of a planned exchange, both directions at once, and return.

        Args:
            own: ``[B, f, ...]``, the frames of this rank's clip; may be written to as soon as this returns.
            plan: the same exchange planned on every rank.
        """
        self.exchange_count += 1
        if self._group is None or not (plan.sends or plan.receives):
            return UnderWay(self._clock)
        with self._clock.measure(Stage.COMMUNICATE, "post") as posted:
            operations = []
            sent = []
            for peer, frames in plan.sends:
                chosen = own.index_select(1, self._index(frames))
                sent.append(chosen)
                operations.append(dist.P2POp(dist.isend, chosen, group=self._group, group_peer=peer))
            before: list[torch.Tensor] = []
            after: list[torch.Tensor] = []
            for peer, count in plan.receives:
                buffer = own.new_empty((own.shape[0], count, *own.shape[2:]))
                self.received_bytes += buffer.numel() * buffer.element_size()
                (before if peer < self._topology.rank else after).append(buffer)
                operations.append(dist.P2POp(dist.irecv, buffer, group=self._group, group_peer=peer))
            works = dist.batch_isend_irecv(operations)
        return UnderWay(self._clock, works, sent, before, after, posted)

    def with_context(self, own: torch.Tensor, plan: FramePlan) -> torch.Tensor:
        """Return this rank's frames together with the planned frames of its peers, ascending by frame.

        Args:
            own: ``[B, f, ...]``, the frames of this rank's clip.
            plan: the same exchange planned on every rank.

        Returns:
            ``[B, len(plan.frames), ...]``.
        """
        before, after = self.begin(own, plan).wait()
        if before is None and after is None:
            return own
        return torch.cat([part for part in (before, own, after) if part is not None], dim=1)

    def _index(self, frames: tuple[int, ...]) -> torch.Tensor:
        """The frames as an index on the device; kept, because copying one there makes the host wait."""
        if frames not in self._indices:
            self._indices[frames] = torch.tensor(frames, device=self._topology.device)
        return self._indices[frames]

    def deal(self, own: torch.Tensor, clips: tuple[Clip, ...], needs: tuple[frozenset[int], ...]) -> torch.Tensor:
        """Deal frames out anew: every rank gets those that it needs, whoever else does.

        Args:
            own: ``[f, ...]``, the frames of this rank's clip.
            clips: every rank's clip.
            needs: for every rank the frames that it gets.

        Returns:
            ``[n, ...]``: the frames dealt to this rank, ascending by frame.
        """
        plan = FramePlan.build(clips, needs, self._topology.rank)
        everything = self.with_context(own[None], plan)[0]
        return everything[[i for i, f in enumerate(plan.frames) if f in needs[self._topology.rank]]]
