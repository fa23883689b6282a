"""The bounded queue of generations that wait for the group: by priority, then in fair turns, then by arrival."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator

from vinf_server.front.errors import QueueFullError
from vinf_server.front.generations.generation import DEFAULT_PRIORITY

_Key = tuple[int, int, int]
"""Priority, highest first; turn; order of arrival."""


class GenerationQueue:
    """Ids in the order in which they will run. Full means refused: the caller is told, nothing is dropped.

    Within a priority the owners take turns (start-time fair queueing with generations of equal weight): the k-th
    waiting generation of an owner runs after the k-th ones of the others at most, so that who sends a hundred delays a
    newcomer by one.

    Args:
        capacity: generations that may wait.
        estimate_s: seconds until there will probably be room, asked when the queue is full.
    """

    def __init__(self, capacity: int, *, estimate_s: Callable[[], float] = lambda: 5.0) -> None:
        self.capacity = capacity
        self.estimate_s = estimate_s
        self._waiting: list[tuple[_Key, str]] = []
        self._keys: dict[str, _Key] = {}
        self._owners: dict[str, str] = {}
        self._count_by_owner: Counter[str] = Counter()
        self.count_by_priority: Counter[int] = Counter()
        """How many wait."""
        self._turn: dict[int, int] = {}
        """By priority: the turn that runs now."""
        self._last_turn: dict[tuple[int, str], int] = {}
        """By priority and owner: the turn of its newest generation, unless that turn is over."""
        self._arrivals = itertools.count()
        self._returns = itertools.count(-1, -1)

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[str]:
        return iter([generation_id for _, generation_id in self._waiting])

    @property
    def highest_priority(self) -> int | None:
        """Of those that wait; None when nobody does."""
        return -self._waiting[0][0][0] if self._waiting else None

    def count_of(self, owner: str) -> int:
        """How many of one owner wait."""
        return self._count_by_owner[owner]

    def check_room(self) -> None:
        """Raise `QueueFullError` when nothing more may wait."""
        if len(self._waiting) >= self.capacity:
            raise QueueFullError(
                f"{len(self._waiting)} generations wait already, {self.capacity} may; try again later",
                retry_s=self.estimate_s(),
                waitingGenerationCount=str(len(self._waiting)),
                maxWaitingGenerationCount=str(self.capacity),
            )

    def put(self, generation_id: str, *, priority: int = DEFAULT_PRIORITY, owner: str = "") -> None:
        """Add an id behind those of its priority and its owner, or raise `QueueFullError`."""
        self.check_room()
        turn = max(self._turn.get(priority, 0), self._last_turn.get((priority, owner), -1) + 1)
        self._last_turn[priority, owner] = turn
        self._add(generation_id, (-priority, turn, next(self._arrivals)), owner)

    def put_back(self, generation_id: str, *, priority: int = DEFAULT_PRIORITY, owner: str = "") -> None:
        """Let an id run next in its priority that was taken before; it has been admitted, so there is room for it."""
        self._add(generation_id, (-priority, -1, next(self._returns)), owner)

    def take(self) -> str | None:
        """Remove and return the next id; None when nobody waits."""
        if not self._waiting:
            return None
        (negative_priority, turn, _), generation_id = self._waiting[0]
        if turn > self._turn.get(-negative_priority, 0):
            self._turn[-negative_priority] = turn
            # An owner whose turns are all over starts with the others again.
            self._last_turn = {
                (priority, owner): last
                for (priority, owner), last in self._last_turn.items()
                if priority != -negative_priority or last >= turn
            }
        self.remove(generation_id)
        return generation_id

    def remove(self, generation_id: str) -> None:
        """Take an id out of the middle; nothing happens when it does not wait."""
        key = self._keys.pop(generation_id, None)
        if key is None:
            return
        del self._waiting[bisect_left(self._waiting, (key, generation_id))]
        self.count_by_priority[-key[0]] -= 1
        owner = self._owners.pop(generation_id)
        self._count_by_owner[owner] -= 1
        if not self._count_by_owner[owner]:
            del self._count_by_owner[owner]

    def position(self, generation_id: str) -> int:
        """How many wait in front of it."""
        return bisect_left(self._waiting, (self._keys[generation_id], generation_id))

    def _add(self, generation_id: str, key: _Key, owner: str) -> None:
        insort(self._waiting, (key, generation_id))
        self._keys[generation_id] = key
        self.count_by_priority[-key[0]] += 1
        self._owners[generation_id] = owner
        self._count_by_owner[owner] += 1
