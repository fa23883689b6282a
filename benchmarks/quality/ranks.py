"""Ranks in one process: threads that take turns, so that a benchmark can do to their sums what no option of ours does.

A rank computes while it holds the baton, and lays it down only where it waits for frames of another. So any number of
them is one thread's work, and comes out the same every time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar

import torch

from vinf_core.distributed.exchange import Exchange, FramePlan, UnderWay
from vinf_core.distributed.topology import Topology
from vinf_core.events import StageClock

Result = TypeVar("Result")

FRAMES, SUMS = "frames", "sums"


class RankError(RuntimeError):
    """Another rank failed."""


class Room:
    """Where the ranks are: the baton, and two letter boxes for each pair: sums pass frames on their way."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self._baton = threading.Lock()
        self._boxes: dict[tuple[str, int, int], SimpleQueue[torch.Tensor | None]] = {
            (kind, sender, receiver): SimpleQueue()
            for kind in (FRAMES, SUMS)
            for sender in range(ranks)
            for receiver in range(ranks)
        }

    def post(self, kind: str, sender: int, receiver: int, values: torch.Tensor) -> None:
        """Leave values that nobody changes any more."""
        self._boxes[kind, sender, receiver].put(values)

    def take(self, kind: str, sender: int, receiver: int) -> torch.Tensor:
        """Wait for the oldest values that have not been taken; others compute meanwhile.

        Raises:
            RankError: the sender failed.
        """
        box = self._boxes[kind, sender, receiver]
        if box.empty():
            self._baton.release()
            try:
                values = box.get()
            finally:
                self._baton.acquire()
        else:
            values = box.get()
        if values is None:
            raise RankError(f"rank {sender} failed")
        return values

    def run(self, work: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run one function a rank together, each in a thread of its own; return their results in rank order."""
        results: dict[int, Result] = {}
        errors: list[Exception] = []

        def be(rank: int) -> None:
            with self._baton:
                torch.set_num_threads(1)  # of this thread's operations
                try:
                    results[rank] = work[rank]()
                except Exception as error:
                    if not isinstance(error, RankError):
                        errors.append(error)
                    for (_, sender, _), box in self._boxes.items():
                        if sender == rank:
                            box.put(None)

        threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(self.ranks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [results[rank] for rank in range(self.ranks)]


class RoomExchange(Exchange):
    """A rank's way to the others of its room."""

    def __init__(self, room: Room, topology: Topology, clock: StageClock, *, shares_sums: bool) -> None:
        """Take a place.

        Args:
            room: with as many ranks as the topology.
            topology, clock: as of any exchange.
            shares_sums: whether sums go over all ranks; else each rank's are its own, and so are the group norms.
        """
        super().__init__(topology, None, clock)
        self._room = room
        self._shares_sums = shares_sums

    def begin(self, own: torch.Tensor, plan: FramePlan) -> UnderWay:
        """See `Exchange.begin`."""
        rank = self._topology.rank
        for peer, frames in plan.sends:
            self._room.post(FRAMES, rank, peer, own[:, list(frames)])  # a copy: the index is a list
        return _Letters(self._clock, self._room, rank, plan)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """See `Exchange.sum`."""
        if not self._shares_sums:
            return values
        rank = self._topology.rank
        own = values.clone()
        for peer in range(self._room.ranks):
            if peer != rank:
                self._room.post(SUMS, rank, peer, own)
        values.zero_()
        for peer in range(self._room.ranks):
            values += own if peer == rank else self._room.take(SUMS, peer, rank)
        return values


class _Letters(UnderWay):
    """Frames in the letter boxes."""

    def __init__(self, clock: StageClock, room: Room, rank: int, plan: FramePlan) -> None:
        super().__init__(clock)
        self._room = room
        self._rank = rank
        self._plan = plan

    def wait(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """See `UnderWay.wait`."""
        arrived = [(peer, self._room.take(FRAMES, peer, self._rank)) for peer, _ in self._plan.receives]
        before = [values for peer, values in arrived if peer < self._rank]
        after = [values for peer, values in arrived if peer > self._rank]
        return _joined(before), _joined(after)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor | None:
    return torch.cat(parts, dim=1) if parts else None
