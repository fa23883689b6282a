"""Who has to be asked for: leases and deadlines of generations that have not ended.

A generation without `detached` lives as long as somebody cares: as long as a stream of it is open whose client takes
what it is sent, or somebody has asked for it within its lease. A client that forgot a stream looks like one that reads
slowly, so only one that has taken nothing for the length of the lease counts as gone. Time is monotonic for leases; a
deadline is a moment of the wall clock, as its client gave it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from google.rpc import code_pb2

from vinf_server.front.generations.generation import Failure, Generation

_CHECK_S = 0.5
"""Precise enough for leases of at least five seconds."""

LEASE_EXPIRED = "LEASE_EXPIRED"
JOB_DEADLINE = "JOB_DEADLINE"


class OpenStream:
    """A stream that holds a lease.

    Args:
        clock: seconds, never going back.
        on_given: told the seconds that the client takes over its messages, while it takes them.
    """

    def __init__(self, clock: Callable[[], float], on_given: Callable[[float], None]) -> None:
        self._clock = clock
        self._on_given = on_given
        self._giving_since: float | None = None
        self._told_until = 0.0

    @contextmanager
    def giving(self) -> Iterator[None]:
        """While the client is to take a message; the transport holds the handler there when it does not."""
        self._giving_since = self._told_until = self._clock()
        try:
            yield
        finally:
            self.tell()
            self._giving_since = None

    def tell(self) -> None:
        """Tell what the client has taken since it was last told: who takes nothing for long is seen meanwhile."""
        if self._giving_since is not None:
            since, self._told_until = self._told_until, self._clock()
            self._on_given(self._told_until - since)

    def stalled_s(self, now: float) -> float:
        """Seconds that the client has not taken what it was to take."""
        return 0.0 if self._giving_since is None else now - self._giving_since


@dataclass(slots=True)
class _Lease:
    generation: Generation
    asked_at: float
    streams: set[OpenStream] = field(default_factory=set)


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
        self._open: set[OpenStream] = set()
        """Also those of generations that have ended, which need no lease."""

    def add(self, generation: Generation) -> None:
        """Watch over one, from now on."""
        self._leases[generation.generation_id] = _Lease(generation, self._clock())

    def touch(self, generation_id: str) -> None:
        """Somebody has asked for it."""
        lease = self._leases.get(generation_id)
        if lease is not None:
            lease.asked_at = self._clock()

    @contextmanager
    def holding(
        self, generation_id: str, *, on_given: Callable[[float], None] = lambda seconds: None
    ) -> Iterator[OpenStream]:
        """Hold it for as long as a stream is open and its client takes what it is sent.

        Args:
            generation_id: of any; one that has ended needs no holding.
            on_given: see `OpenStream`.
        """
        lease, stream = self._leases.get(generation_id), OpenStream(self._clock, on_given)
        self._open.add(stream)
        if lease is not None:
            lease.streams.add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)
            if lease is not None:
                lease.streams.discard(stream)
                lease.asked_at = self._clock()

    def check(self) -> None:
        """End what has run out, and forget what has ended; hear how long clients take."""
        for stream in self._open:
            stream.tell()
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
        now, lease_s = self._clock(), math.inf if terms.lease_s is None else terms.lease_s
        if now - lease.asked_at < lease_s or any(stream.stalled_s(now) < lease_s for stream in lease.streams):
            return None
        return Failure(
            code_pb2.CANCELLED,
            LEASE_EXPIRED,
            f"nobody asked for it for {terms.lease_s:g} s; create it with detached = true to let it run unwatched",
        )
