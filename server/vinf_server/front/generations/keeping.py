"""What is kept on the disk: room for new generations, and the end of old ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vinf_server.front.disk import DiskSpace
from vinf_server.front.errors import DiskFullError
from vinf_server.front.frames.spool import Spool
from vinf_server.front.generations.generation import Generation
from vinf_server.front.generations.retention import Retention, missing_bytes, stored_bytes
from vinf_server.front.generations.store import GenerationStore, StoreError

_log = logging.getLogger(__name__)

DISK_RETRY_S = 60.0
"""When to try again, where no generation is known to be forgotten earlier; also the least that is promised."""

_MIN_RETRY_S, _MAX_RETRY_S = 5.0, 3600.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Frames on the disk."""

    frames: int
    size_bytes: int
    capacity_bytes: int
    """What they may take."""


class Keeper:
    """Knows what all generations take of the disk, and for how long they may."""

    def __init__(self, store: GenerationStore, spool: Spool, disk: DiskSpace, retention: Retention) -> None:
        self._store = store
        self._spool = spool
        self._disk = disk
        self._retention = retention
        self._left_bytes: int | None = None
        """Of the room at the last look; None: nobody has looked."""

        self._forgetting: list[Callable[[str], None]] = []

    def when_forgotten(self, tell: Callable[[str], None]) -> None:
        """Have the id of each generation told that is removed."""
        self._forgetting.append(tell)

    async def look(self) -> None:
        """See how much room there is now, and make some by forgetting what has expired."""
        await self.forget_expired()
        await self._disk.measure()
        self._left_bytes = self.room_bytes()

    def promised(self, generation: Generation) -> None:
        """A generation was admitted: what it will need is not free for another one.

        Nothing else makes the room of the last look smaller than it seems: what the generations of then have written
        meanwhile was promised to them.
        """
        if self._left_bytes is not None:
            self._left_bytes -= missing_bytes(generation)

    def expire_time_ns(self, generation: Generation) -> int:
        """When a generation is forgotten, on the wall clock; 0: not known, or never."""
        return self._retention.expire_time_ns(generation)

    def room_bytes(self) -> int:
        """What may be promised to generations besides those that are known."""
        known = tuple(self._store.all())
        return self._disk.room_bytes(stored=sum(map(stored_bytes, known)), promised=sum(map(missing_bytes, known)))

    def usage(self) -> Usage:
        """What the frames of all generations take of the disk, as it was at the last look."""
        known = tuple(self._store.all())
        stored = sum(map(stored_bytes, known))
        frames = sum(generation.frames.completed_count - generation.frames.first_available for generation in known)
        return Usage(frames, stored, self._disk.capacity_bytes(stored=stored))

    def distrust(self) -> None:
        """The disk refused what it seemed to have room for: nothing is admitted before somebody looks again."""
        self._left_bytes = -1

    def check_room(self, generation: Generation) -> None:
        """Refuse what the disk had no room for at the last look, once everything that was promised is there.

        Raises:
            DiskFullError: with the time until something is forgotten.
        """
        if self._left_bytes is None:
            self._left_bytes = self.room_bytes()
        needed, room = missing_bytes(generation), self._left_bytes
        if needed <= room:
            return
        expiries = [time_ns for known in self._store.all() if (time_ns := self.expire_time_ns(known))]
        retry_s = min(expiries, default=time.time_ns() + int(DISK_RETRY_S * 1e9)) / 1e9 - time.time()
        raise DiskFullError(
            f"the generation needs {needed} bytes of the server's disk, {max(0, room)} are free; "
            "delete generations or try again later",
            retry_s=min(max(retry_s, _MIN_RETRY_S), _MAX_RETRY_S),
            neededBytes=str(needed),
            freeBytes=str(max(0, room)),
        )

    async def forget_expired(self) -> None:
        """Forget what was promised to be kept no longer."""
        ended = (generation for generation in self._store.all() if generation.is_terminal)
        await self.forget(self._retention.expired(ended, time.time_ns()))

    async def forget(self, generations: Sequence[Generation]) -> None:
        """Remove generations that have ended, and their frames; who reads them is told.

        The rows go first: a server that ends in between removes frames that belong to nothing.
        """
        for generation in generations:
            _log.info("generation %s is forgotten", generation.generation_id)
            generation.is_forgotten = True
            generation.trace.close()
            self._store.forget(generation)
            generation.changed.notify()
            for tell in self._forgetting:
                tell(generation.generation_id)
        if not generations:
            return
        try:
            await self._store.flush()
        except StoreError:
            _log.warning("frames are removed before the database has noted it")
        for generation in generations:
            await self._spool.remove(generation.generation_id)
