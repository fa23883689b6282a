"""Raw frames on disk, one file a generation, addressed by index.

The ranks send frames in any order and in slices; a frame counts once all its bytes are on disk. Every read and write
runs in a thread of the spool, so the event loop never waits for a disk. The index lives in memory, eight bytes a frame.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_Result = TypeVar("_Result")

_THREADS = 4
"""Enough to keep a disk busy and to let readers pass a slow write."""


class SliceError(ValueError):
    """A slice does not fit the video it is said to belong to."""


class Spool:
    """A folder of frame files and the threads that read and write them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="spool")

    def file(self, generation_id: str, *, frame_count: int, frame_size: int) -> SpoolFile:
        """Describe a generation's file; nothing touches the disk before its first frame."""
        path = self._root / generation_id / "frames.rgb24"
        return SpoolFile(path, frame_count=frame_count, frame_size=frame_size, threads=self._threads)

    def close(self) -> None:
        """Finish the writes under way."""
        self._threads.shutdown()


class SpoolFile:
    """The frames of one generation. Its methods belong to the event loop; only the disk is touched elsewhere."""

    def __init__(self, path: Path, *, frame_count: int, frame_size: int, threads: ThreadPoolExecutor) -> None:
        self.path = path
        self.frame_count = frame_count
        self.frame_size = frame_size
        self.completed_count = 0
        self._threads = threads
        self._complete_time_us = array("q", [0]) * frame_count
        self._partial: dict[int, list[tuple[int, int]]] = {}
        self._descriptor: int | None = None
        self._opening = threading.Lock()
        self._writes_under_way = 0
        self._closing = False

    def is_complete(self, frame_index: int) -> bool:
        """True when every byte of the frame is on disk."""
        return self._complete_time_us[frame_index] != 0

    def complete_time_us(self, frame_index: int) -> int:
        """When the frame became complete, in microseconds since the Unix epoch; 0 = not yet."""
        return self._complete_time_us[frame_index]

    def complete_run(self, start: int, stop: int) -> int:
        """How many frames from `start` on, before `stop`, are complete without a gap."""
        index = start
        while index < stop and self._complete_time_us[index]:
            index += 1
        return index - start

    async def write(self, frame_index: int, offset: int, data: bytes, *, frame_size: int) -> bool:
        """Put a slice on disk; True when it completed its frame. Writing the same bytes twice changes nothing."""
        self._check_slice(frame_index, offset, len(data), frame_size)
        if self.is_complete(frame_index):
            return False
        self._writes_under_way += 1
        try:
            await self._in_thread(self._write, frame_index * self.frame_size + offset, data)
        finally:
            self._writes_under_way -= 1
            if self._closing:
                self.close()
        return self._note(frame_index, offset, offset + len(data))

    async def read(self, descriptor: int, start: int, count: int) -> bytes:
        """Read `count` complete frames from `start` on, through a descriptor of `open_reader`."""
        return await self._in_thread(_read_exactly, descriptor, count * self.frame_size, start * self.frame_size)

    async def open_reader(self) -> int:
        """Open the file for one reader, who closes the descriptor with `os.close`; a frame must be complete."""
        return await self._in_thread(os.open, self.path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the writer's descriptor once no write is under way; later slices open it anew."""
        self._closing = self._writes_under_way > 0
        if not self._closing and self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _check_slice(self, frame_index: int, offset: int, length: int, frame_size: int) -> None:
        if not 0 <= frame_index < self.frame_count:
            raise SliceError(f"frame {frame_index} is not in [0, {self.frame_count - 1}]")
        if frame_size != self.frame_size:
            raise SliceError(f"frame {frame_index} has {frame_size} bytes, {self.frame_size} expected")
        if length == 0 or offset < 0 or offset + length > frame_size:
            raise SliceError(f"bytes {offset} to {offset + length} are not within a frame of {frame_size} bytes")

    def _write(self, position: int, data: bytes) -> None:
        with self._opening:
            if self._descriptor is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, position)
            view, position = view[written:], position + written

    def _note(self, frame_index: int, begin: int, end: int) -> bool:
        """Merge a written range into the frame's; True when it made the frame complete."""
        if self.is_complete(frame_index):
            return False
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._partial.get(frame_index, ()), (begin, end)]):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        if merged != [(0, self.frame_size)]:
            self._partial[frame_index] = merged
            return False
        self._partial.pop(frame_index, None)
        self._complete_time_us[frame_index] = time.time_ns() // 1000
        self.completed_count += 1
        return True

    async def _in_thread(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _read_exactly(descriptor: int, length: int, position: int) -> bytes:
    data = os.pread(descriptor, length, position)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), position + len(data))
        if not more:
            raise OSError(f"the spool ends {length - len(data)} bytes early")
        data += more
    return data
