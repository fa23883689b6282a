"""Values that many tasks want at the same time: made once, and kept while there is room."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Protocol


class Weighed(Protocol):
    """Something that takes memory."""

    @property
    def size_bytes(self) -> int:
        """How much."""


class SharedCache:
    """Keeps what was used last, up to a number of bytes. Belongs to the event loop.

    Args:
        budget_bytes: of all values together; the newest one is kept even if it alone is larger.
        on_resize: told the bytes that are kept.
    """

    def __init__(self, budget_bytes: int, *, on_resize: Callable[[int], None] = lambda _: None) -> None:
        self._budget_bytes = budget_bytes
        self._on_resize = on_resize
        self._values: OrderedDict[Hashable, Weighed] = OrderedDict()
        self._under_way: dict[Hashable, asyncio.Task[Sequence[Weighed]]] = {}
        self._positions: dict[Hashable, int] = {}
        self.size_bytes = 0

    def get(self, key: Hashable) -> Weighed | None:
        """Look a value up; it then counts as used."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    async def fetch(self, keys: Sequence[Hashable], load: Callable[[int], Awaitable[Sequence[Weighed]]]) -> Weighed:
        """Return the first key's value, and make it with its neighbours if it is not there.

        Whoever asks for a value that is being made waits for that one; it is made to the end even if nobody waits.

        Args:
            keys: of values that are cheaper to make together.
            load: makes the values of so many of the keys, from the first one on.
        """
        first = keys[0]
        value = self.get(first)
        if value is not None:
            return value
        task = self._under_way.get(first)
        if task is None:
            count = 1
            while count < len(keys) and keys[count] not in self._values and keys[count] not in self._under_way:
                count += 1
            task = asyncio.ensure_future(load(count))
            for position, key in enumerate(keys[:count]):
                self._under_way[key], self._positions[key] = task, position
            task.add_done_callback(lambda done: self._finished(done, keys[:count]))
        position = self._positions[first]
        return (await asyncio.shield(task))[position]

    def drop(self, is_unwanted: Callable[[Hashable], bool]) -> None:
        """Forget values by their keys; those that are being made are kept when they are there."""
        for key in [key for key in self._values if is_unwanted(key)]:
            self.size_bytes -= self._values.pop(key).size_bytes
        self._on_resize(self.size_bytes)

    def _finished(self, task: asyncio.Task[Sequence[Weighed]], keys: Sequence[Hashable]) -> None:
        for key in keys:
            del self._under_way[key], self._positions[key]
        if task.cancelled() or task.exception() is not None:
            return
        # The first one is wanted now, so it is the last to go.
        for key, value in reversed(list(zip(keys, task.result(), strict=True))):
            self._values[key] = value
            self.size_bytes += value.size_bytes
        while self.size_bytes > self._budget_bytes and len(self._values) > 1:
            _, dropped = self._values.popitem(last=False)
            self.size_bytes -= dropped.size_bytes
        self._on_resize(self.size_bytes)
