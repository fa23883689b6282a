"""Who has to be asked for: leases and deadlines of generations that have not ended.

A generation without `detached` lives as long as somebody cares: as long as a stream of it is open, or somebody has
asked for it within its lease. Time is monotonic for leases; a deadline is a moment of the wall clock, as its client
gave it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from google.rpc import code_pb2

from vinf_server.front.generations.generation import Failure, Generation

_CHECK_S = 0.5
"""Precise enough for leases of at least five seconds."""

LEASE_EXPIRED = "LEASE_EXPIRED"
JOB_DEADLINE = "JOB_DEADLINE"


@dataclass(slots=True)
class _Lease:
    generation: Generation
    asked_at: float
    open_streams: int = 0


class Leases:
    """Every generation that has not ended, and when it was last asked for.

    Args:
        end: ends a generation with a failure whose code is CANCELLED or DEADLINE_EXCEEDED.
        clock: seconds, never going back.
        wall_clock_ns: nanoseconds since the Unix epoch.
    """

    def __init__(
        self,
        end: Callable[[Generation, Failure], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._end = end
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._leases: dict[str, _Lease] = {}

    def add(self, generation: Generation) -> None:
        """Watch over one, from now on."""
        self._leases[generation.generation_id] = _Lease(generation, self._clock())

    def touch(self, generation_id: str) -> None:
        """Somebody has asked for it."""
        lease = self._leases.get(generation_id)
        if lease is not None:
            lease.asked_at = self._clock()

    @contextmanager
    def holding(self, generation_id: str) -> Iterator[None]:
        """Hold it for as long as a stream is open."""
        lease = self._leases.get(generation_id)
        if lease is None:
            yield
            return
        lease.open_streams += 1
        try:
            yield
        finally:
            lease.open_streams -= 1
            lease.asked_at = self._clock()

    def check(self) -> None:
        """End what has run out, and forget what has ended."""
        for generation_id, lease in tuple(self._leases.items()):
            if lease.generation.is_terminal:
                del self._leases[generation_id]
            elif (failure := self._verdict(lease)) is not None:
                del self._leases[generation_id]
                self._end(lease.generation, failure)

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_S)
            self.check()

    def _verdict(self, lease: _Lease) -> Failure | None:
        terms = lease.generation.terms
        if terms.deadline_ns and self._wall_clock_ns() >= terms.deadline_ns:
            return Failure(code_pb2.DEADLINE_EXCEEDED, JOB_DEADLINE, "it had not ended by its deadline")
        silence = self._clock() - lease.asked_at
        if lease.open_streams or silence < (math.inf if terms.lease_s is None else terms.lease_s):
            return None
        return Failure(
            code_pb2.CANCELLED,
            LEASE_EXPIRED,
            f"nobody asked for it for {terms.lease_s:g} s; create it with detached = true to let it run unwatched",
        )
