"""A cache with a bound: what was used least recently leaves first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Holds so many entries and bytes at most. One thread calls `get`; any thread may read the counts."""

    def __init__(
        self,
        capacity: int,
        *,
        max_bytes: int | None = None,
        size_of: Callable[[Value], int] | None = None,
    ) -> None:
        """Make an empty cache.

        Args:
            capacity: entries kept at most, 1 or more.
            max_bytes: bytes kept at most; None: no bound but ``capacity``. An entry larger than that is made and
                handed out, and not kept.
            size_of: bytes of an entry; wanted with ``max_bytes``.
        """
        assert capacity >= 1
        assert max_bytes is None or size_of is not None
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self.byte_count = 0
        """Bytes kept now; 0 without ``size_of``."""
        self.hit_count = 0
        """Entries found since the start."""
        self.miss_count = 0
        """Entries made since the start."""

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return what is kept under ``key``, or what ``make`` returns, and keep that; not to be changed in place."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            self.hit_count += 1
            return found[0]
        self.miss_count += 1
        made = make()
        size = self._size_of(made) if self._size_of is not None else 0
        if self._max_bytes is not None and size > self._max_bytes:
            return made
        self._kept[key] = made, size
        self.byte_count += size
        while len(self._kept) > self._capacity or (self._max_bytes is not None and self.byte_count > self._max_bytes):
            _, (_, gone) = self._kept.popitem(last=False)
            self.byte_count -= gone
        return made

    def clear(self) -> None:
        """Forget every entry; the counts stay."""
        self._kept.clear()
        self.byte_count = 0
