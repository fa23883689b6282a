"""Raw frames on disk, one file a generation, addressed by index.

The ranks send frames in any order and in slices; a frame counts once all its bytes are on disk and a record beside them
says so (`frame_index.py`). Every read and write runs in a thread of the spool, so the event loop waits for no disk.
What is needed of the index lives in memory, twelve bytes a frame: a thousandth of the smallest frames.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from array import array
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from vinf_server.front.errors import FrameDamagedError, FrameEvictedError
from vinf_server.front.folders import remove_folder, remove_other_folders
from vinf_server.front.frames.checksum import crc32c
from vinf_server.front.frames.frame_index import FrameIndexWriter, FrameRecord, read_index, write_all
from vinf_server.front.frames.hole import punch_hole

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_THREADS = 4
"""Enough to keep a disk busy and to let readers pass a slow write."""

_VERIFIED_BYTES = 32 << 20
"""Frames that are verified in one go of a thread."""


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

    async def remove(self, generation_id: str) -> None:
        """Remove a generation's frames; who reads them now may read on, the room comes back after that."""
        await self._in_thread(remove_folder, self._root / generation_id)

    async def remove_others(self, known: Collection[str]) -> None:
        """Remove what belongs to no generation that is known."""
        await self._in_thread(remove_other_folders, self._root, frozenset(known))

    def close(self) -> None:
        """Finish the writes under way."""
        self._threads.shutdown()

    async def _in_thread(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


class SpoolFile:
    """The frames of one generation. Its methods belong to the event loop; only the disk is touched elsewhere."""

    def __init__(self, path: Path, *, frame_count: int, frame_size: int, threads: ThreadPoolExecutor) -> None:
        self.path = path
        self.frame_count = frame_count
        self.frame_size = frame_size
        self.completed_count = 0
        self.next_missing = 0
        """The first frame that is not complete."""
        self.first_available = 0
        """The first frame that is still kept; those before it were complete once."""
        self._threads = threads
        # As long as the frames that came, not as the video: most of what waits or was cancelled has none.
        self._complete_time_us = array("q")
        self._crc32c = array("I")
        self._partial: dict[int, list[tuple[int, int]]] = {}
        self._sealing: set[int] = set()
        self._descriptor: int | None = None
        self._index: FrameIndexWriter | None = None
        self._files = threading.Lock()
        self._writes_under_way = 0
        self._closing = False

    def is_complete(self, frame_index: int) -> bool:
        """True when every byte of the frame is on disk."""
        return self.complete_time_us(frame_index) != 0

    def complete_time_us(self, frame_index: int) -> int:
        """When the frame became complete, in microseconds since the Unix epoch; 0 = not yet."""
        return self._complete_time_us[frame_index] if frame_index < len(self._complete_time_us) else 0

    def crc32c(self, frame_index: int) -> int:
        """CRC-32C of a complete frame's bytes as they are here: RGB24, rows from top to bottom without padding."""
        return self._crc32c[frame_index]

    def complete_run(self, start: int, stop: int) -> int:
        """How many frames from `start` on, before `stop`, are complete without a gap."""
        index, stop = start, min(stop, len(self._complete_time_us))
        while index < stop and self._complete_time_us[index]:
            index += 1
        return index - start

    async def recover(self, *, verify: bool) -> int:
        """Find out which frames an earlier server has stored; returns how many of them are damaged.

        Args:
            verify: read every frame and count only those whose bytes match their checksum: the others will be made
                again. Otherwise they are taken at their word, and a damaged one is an error to its reader.

        Raises:
            OSError: the index cannot be read.
        """
        found = await self._in_thread(read_index, self.path.with_name(_INDEX_NAME))
        self.first_available = min(found.dropped_count, self.frame_count)
        ordered = [found.frames[index] for index in sorted(found.frames) if index < self.frame_count]
        dropped = [record for record in ordered if record.frame_index < self.first_available]
        for record in dropped:
            self._count(record)
        ordered = ordered[len(dropped) :]
        if not verify:
            for record in ordered:
                self._count(record)
            return 0
        size = max(1, _VERIFIED_BYTES // self.frame_size)
        chunks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        for good in await asyncio.gather(*(self._in_thread(self._verified, chunk) for chunk in chunks)):
            for record in good:
                self._count(record)
        return len(dropped) + len(ordered) - self.completed_count

    async def write(self, frame_index: int, offset: int, data: bytes, *, frame_size: int) -> bool:
        """Put a slice on disk; True when it completed its frame. Writing the same bytes twice changes nothing.

        Raises:
            SliceError: it does not fit the video.
            OSError: the disk refuses.
        """
        self._check_slice(frame_index, offset, len(data), frame_size)
        if self.is_complete(frame_index):
            return False
        self._writes_under_way += 1
        try:
            await self._in_thread(self._write, frame_index * self.frame_size + offset, data)
            if not self._covers_frame(frame_index, offset, offset + len(data)):
                return False
            return await self._seal(frame_index, data if len(data) == self.frame_size else None)
        finally:
            self._writes_under_way -= 1
            if self._closing:
                self.close()

    async def read(self, descriptor: int, start: int, count: int) -> bytes:
        """Read `count` complete frames from `start` on, through a descriptor of `open_reader`.

        Raises:
            FrameEvictedError: the first of them is kept no longer.
            FrameDamagedError: they are not what was stored.
        """
        # Dropped is dropped, also while another thread has yet to give the room back.
        self.check_available(start)
        try:
            return await self._in_thread(self._read_checked, descriptor, start, self._crc32c[start : start + count])
        except FrameDamagedError:
            # It may have been dropped while it was read.
            if start < self.first_available:
                raise FrameEvictedError(start, self.first_available) from None
            raise

    def check_available(self, frame_index: int) -> None:
        """Raise `FrameEvictedError` when the frame is kept no longer."""
        if frame_index < self.first_available:
            raise FrameEvictedError(frame_index, self.first_available)

    def drop_before(self, frame_index: int) -> None:
        """Keep the frames before this one no longer; their room on the disk comes back."""
        stop = min(frame_index, self.next_missing)
        if stop <= self.first_available:
            return
        start, self.first_available = self.first_available, stop
        # Once the spool is closed the server is about to end; its successor drops them again when it is asked to.
        with suppress(RuntimeError):
            self._threads.submit(self._drop, start, stop)

    async def open_reader(self) -> int:
        """Open the file for one reader, who closes the descriptor with `os.close`; a frame must be complete.

        Raises:
            FrameDamagedError: the file is gone.
        """
        try:
            return await self._in_thread(os.open, self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise FrameDamagedError(self.next_missing - 1, error.strerror or str(error)) from error

    def close(self) -> None:
        """Flush and close what was written once no write is under way; later slices open it anew."""
        self._closing = self._writes_under_way > 0
        # Once the spool is closed the server is about to end, and the system closes the files.
        if not self._closing and self._descriptor is not None:
            with suppress(RuntimeError):
                self._threads.submit(self._flush_and_close)

    # ---- inside, on the event loop ----

    def _check_slice(self, frame_index: int, offset: int, length: int, frame_size: int) -> None:
        if not 0 <= frame_index < self.frame_count:
            raise SliceError(f"frame {frame_index} is not in [0, {self.frame_count - 1}]")
        if frame_size != self.frame_size:
            raise SliceError(f"frame {frame_index} has {frame_size} bytes, {self.frame_size} expected")
        if length == 0 or offset < 0 or offset + length > frame_size:
            raise SliceError(f"bytes {offset} to {offset + length} are not within a frame of {frame_size} bytes")

    def _covers_frame(self, frame_index: int, begin: int, end: int) -> bool:
        """Merge a written range into the frame's; True when all of it is there and nobody else seals it."""
        if self.is_complete(frame_index) or frame_index in self._sealing:
            return False
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._partial.get(frame_index, ()), (begin, end)]):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        self._partial[frame_index] = merged
        return merged == [(0, self.frame_size)]

    async def _seal(self, frame_index: int, data: bytes | None) -> bool:
        """Record a frame whose bytes are all there; only then it counts."""
        self._sealing.add(frame_index)
        try:
            record = await self._in_thread(self._record, frame_index, data)
        finally:
            self._sealing.discard(frame_index)
        self._partial.pop(frame_index, None)
        self._count(record)
        return True

    def _count(self, record: FrameRecord) -> None:
        missing = record.frame_index + 1 - len(self._complete_time_us)
        if missing > 0:
            self._complete_time_us.frombytes(bytes(missing * self._complete_time_us.itemsize))
            self._crc32c.frombytes(bytes(missing * self._crc32c.itemsize))
        self._complete_time_us[record.frame_index] = record.complete_time_us
        self._crc32c[record.frame_index] = record.crc32c
        self.completed_count += 1
        while self.next_missing < self.frame_count and self.is_complete(self.next_missing):
            self.next_missing += 1

    async def _in_thread(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    # ---- inside, in a thread ----

    def _write(self, position: int, data: bytes) -> None:
        with self._files:
            if self._descriptor is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            descriptor = self._descriptor
        write_all(descriptor, data, position)

    def _record(self, frame_index: int, data: bytes | None) -> FrameRecord:
        """Append to the index; `data` is the frame, None: read it back, because it came in slices."""
        descriptor = self._descriptor
        assert descriptor is not None
        if data is None:
            data = _read_exactly(descriptor, self.frame_size, frame_index * self.frame_size)
        record = FrameRecord(frame_index, crc32c(data), time.time_ns() // 1000)
        with self._files:
            if self._index is None:
                self._index = FrameIndexWriter(self.path.with_name(_INDEX_NAME))
            self._index.append(record)
        return record

    def _drop(self, start: int, stop: int) -> None:
        """Record first, then give the room back: what is recorded as kept has its bytes."""
        try:
            with self._files:
                if self._index is None:
                    self._index = FrameIndexWriter(self.path.with_name(_INDEX_NAME))
                self._index.append_dropped(stop)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                punch_hole(descriptor, start * self.frame_size, (stop - start) * self.frame_size)
            finally:
                os.close(descriptor)
        except OSError as error:
            _log.error("cannot drop frames of %s: %s", self.path, error.strerror or error)

    def _flush_and_close(self) -> None:
        with self._files:
            descriptor, self._descriptor = self._descriptor, None
            index, self._index = self._index, None
        try:
            if descriptor is not None:
                os.fsync(descriptor)
            if index is not None:
                index.flush()
        except OSError as error:
            _log.error("cannot flush %s: %s", self.path, error.strerror or error)
        if descriptor is not None:
            os.close(descriptor)
        if index is not None:
            index.close()

    def _verified(self, records: Sequence[FrameRecord]) -> list[FrameRecord]:
        """Those whose frames are as they were stored."""
        good = []
        try:
            with open(self.path, "rb") as file:
                for record in records:
                    file.seek(record.frame_index * self.frame_size)
                    data = file.read(self.frame_size)
                    if len(data) == self.frame_size and crc32c(data) == record.crc32c:
                        good.append(record)
        except OSError as error:
            _log.error("cannot read all of %s: %s", self.path, error.strerror or error)
        return good

    def _read_checked(self, descriptor: int, start: int, checksums: Sequence[int]) -> bytes:
        size = self.frame_size
        try:
            data = _read_exactly(descriptor, len(checksums) * size, start * size)
        except OSError as error:
            raise FrameDamagedError(start, error.strerror or str(error)) from error
        whole = memoryview(data)
        for position, expected in enumerate(checksums):
            # With one frame a call, large ones are not copied.
            frame = data if len(checksums) == 1 else whole[position * size : (position + 1) * size]
            if crc32c(frame) != expected:
                raise FrameDamagedError(start + position, "its bytes do not match their checksum")
        return data


_INDEX_NAME = "frames.index"


def _read_exactly(descriptor: int, length: int, position: int) -> bytes:
    data = os.pread(descriptor, length, position)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), position + len(data))
        if not more:
            raise OSError(f"the spool ends {length - len(data)} bytes early")
        data += more
    return data
