"""The control plane: numbered commands from rank 0, and agreement before every step.

One ``all_reduce(MAX)`` of ``[vote, command]`` is heartbeat, command and agreement in one. Rank 0 runs the same
command it sends. A rank that sees a gap in the numbers exits. Nothing here runs while an error is being cleaned up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist

from vinf_core.distributed.topology import Topology
from vinf_core.errors import GenerationCancelledError, OutOfStepError, OutputInvalidError
from vinf_core.events import Boundary, StopWish, Verdict


class _Vote(IntEnum):
    """What a rank brings to an agreement; the largest wins on every rank. A failed rank does not vote, it exits."""

    SAVE = 0
    GO = 1
    WAIT = 2
    SUSPEND = 3
    CANCEL = 4
    INVALID = 5


_VERDICTS = {
    _Vote.SAVE: Verdict.SAVE,
    _Vote.GO: Verdict.GO,
    _Vote.WAIT: Verdict.WAIT,
    _Vote.SUSPEND: Verdict.SUSPEND,
}


_STOPS = {(StopWish.CANCEL, boundary): _Vote.CANCEL for boundary in Boundary} | {
    (StopWish.SUSPEND, Boundary.STEP): _Vote.SUSPEND,
    (StopWish.SUSPEND, Boundary.DECODE): _Vote.CANCEL,
}


@dataclass(frozen=True, slots=True)
class Numbered:
    """A command as it crosses ranks."""

    number: int
    payload: Any


class ControlPlane:
    """Agreement and commands over the control group; inert in a world of one."""

    def __init__(self, topology: Topology, group: dist.ProcessGroup | None) -> None:
        self._topology = topology
        self._group = group if topology.world_size > 1 else None
        self._number = 0
        self.round_count = 0
        """Agreements so far; a watcher sees from it that the rank lives."""

    @property
    def world_size(self) -> int:
        """Ranks in the group."""
        return self._topology.world_size

    def agree(
        self,
        ready: bool = True,
        *,
        save: bool = False,
        invalid: bool = False,
        boundary: Boundary = Boundary.DECODE,
        stop: StopWish = StopWish.NONE,
    ) -> Verdict:
        """Find out whether every rank is ready for the next step; call it on all ranks at the same place.

        A rank must never wait for anything but its peers between two agreements for long: it says that it is not ready,
        and asks again. So nobody takes a rank that waits for a slow reader for one that hangs.

        Args:
            ready: whether this rank is.
            save: whether this rank can take a checkpoint now.
            invalid: whether this rank holds values that are not finite.
            boundary: where the ranks are, all of them alike.
            stop: whether this rank wants to end the generation.

        Returns:
            WAIT unless every rank is ready, SAVE when every rank can take a checkpoint, SUSPEND when a rank wants to
            stop with a checkpoint at this step; on every rank the same.

        Raises:
            GenerationCancelledError: some rank wants to cancel; raised on every rank.
            OutputInvalidError: some rank holds values that are not finite; raised on every rank.
            OutOfStepError: a command came where none may.
        """
        vote = _Vote.WAIT if not ready else _Vote.SAVE if save else _Vote.GO
        vote = max(vote, _STOPS.get((stop, boundary), vote))
        if invalid:
            vote = _Vote.INVALID
        agreed, command = self._reduce(vote, False)
        if command:
            raise OutOfStepError("a command arrived in the middle of another one")
        if agreed == _Vote.INVALID:
            raise OutputInvalidError("the model produced values that are not finite")
        if agreed == _Vote.CANCEL:
            raise GenerationCancelledError("cancelled at a step boundary")
        return _VERDICTS[_Vote(agreed)]

    def tick(self, payload: Any | None = None) -> Any | None:
        """Pass one idle beat; hand out rank 0's command if it has one.

        Args:
            payload: the command, on rank 0 only; None for a mere beat.

        Returns:
            The command, the same on every rank, or None.
        """
        if payload is not None and not self._topology.is_coordinator:
            raise OutOfStepError("only rank 0 commands")
        _, command = self._reduce(_Vote.GO, payload is not None)
        if not command:
            return None
        self._number += 1
        if self._group is None:
            return payload
        box = [Numbered(self._number, payload)]
        dist.broadcast_object_list(box, src=0, group=self._group)
        if box[0].number != self._number:
            raise OutOfStepError(f"command {box[0].number} arrived where {self._number} was due")
        return box[0].payload

    def gather(self, value: int) -> list[int]:
        """Collect one integer of every rank, in rank order, on every rank."""
        if self._group is None:
            return [value]
        own = torch.tensor([value], dtype=torch.int64)
        all_values = [torch.zeros_like(own) for _ in range(self._topology.world_size)]
        dist.all_gather(all_values, own, group=self._group)
        return [int(v) for v in all_values]

    def _reduce(self, vote: _Vote, command: bool) -> tuple[int, bool]:
        self.round_count += 1
        if self._group is None:
            return int(vote), command
        votes = torch.tensor([int(vote), int(command)], dtype=torch.int64)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group)
        return int(votes[0]), bool(votes[1])
