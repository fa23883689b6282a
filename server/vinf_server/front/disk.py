"""How much room there is for frames and checkpoints."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

_MAX_RESERVE_BYTES = 1 << 30
_RESERVE_SHARE = 20


class DiskSpace:
    """What the data directory may hold: a budget, and never more than its disk has.

    A reserve of the disk, a twentieth of it and at most 1 GiB, is left for logs, the database and everybody else.
    """

    def __init__(self, folder: Path, budget_bytes: int | None = None) -> None:
        """Look at the disk for the first time.

        Args:
            folder: on the disk in question.
            budget_bytes: what frames and checkpoints may take; None: as much as the disk has.
        """
        self.budget_bytes = budget_bytes
        self._folder = folder
        self._free_bytes = 0
        self._measure()

    async def measure(self) -> None:
        """Look at the disk again."""
        await asyncio.to_thread(self._measure)

    def room_bytes(self, *, stored: int, promised: int) -> int:
        """What may be promised besides; negative when too much was promised already.

        Args:
            stored: bytes that are there, of all generations.
            promised: bytes that generations which have not ended will still need.
        """
        room = self._free_bytes - promised
        if self.budget_bytes is not None:
            room = min(room, self.budget_bytes - stored - promised)
        return room

    def capacity_bytes(self, *, stored: int) -> int:
        """What may be stored in all, `stored` bytes of it by now; the disk's other users may make it less later."""
        room = stored + max(0, self._free_bytes)
        return room if self.budget_bytes is None else min(room, self.budget_bytes)

    def _measure(self) -> None:
        usage = shutil.disk_usage(self._folder)
        self._free_bytes = usage.free - min(_MAX_RESERVE_BYTES, usage.total // _RESERVE_SHARE)
