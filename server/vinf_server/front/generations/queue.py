"""The bounded queue of generations that wait for the group, first come first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from vinf_server.front.errors import QueueFullError


class GenerationQueue:
    """Ids in the order in which they will run. Full means refused: the caller is told, nothing is dropped."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._ids: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._ids))

    def check_room(self) -> None:
        """Raise `QueueFullError` when nothing more may wait."""
        if len(self._ids) >= self.capacity:
            raise QueueFullError(
                f"{len(self._ids)} generations wait already, {self.capacity} may; try again later",
                retry_s=5.0,
                waitingGenerationCount=str(len(self._ids)),
                maxWaitingGenerationCount=str(self.capacity),
            )

    def put(self, generation_id: str) -> None:
        """Append an id, or raise `QueueFullError`."""
        self.check_room()
        self._ids.append(generation_id)

    def put_back(self, generation_id: str) -> None:
        """Let an id run next that was taken before; it has been admitted, so there is room for it."""
        self._ids.appendleft(generation_id)

    def take(self) -> str | None:
        """Remove and return the next id; None when nobody waits."""
        return self._ids.popleft() if self._ids else None

    def remove(self, generation_id: str) -> None:
        """Take an id out of the middle; nothing happens when it does not wait."""
        if generation_id in self._ids:
            self._ids.remove(generation_id)

    def position(self, generation_id: str) -> int:
        """How many wait in front of it."""
        return self._ids.index(generation_id)
