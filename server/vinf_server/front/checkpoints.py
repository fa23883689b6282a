"""Checkpoints on disk: what the ranks need to go on with a generation after the group was lost.

One folder a generation, one file for the part of each rank, written under another name and renamed when all of it is
there. A checkpoint is complete when the parts of one step cover the video; then everything older is removed, so that a
generation takes the room of two checkpoints at most. What is in the records is the ranks' business: here they are bytes
with a length in front, one for every latent frame. Parts say how many of those the video has: of the ranks' model the
front need know nothing, also when it begins with what an earlier server has stored.

All disk work runs in one thread, in order: no removal meets a write half-way, and the event loop waits for no disk.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from vinf_server.front.folders import remove_other_folders

_Result = TypeVar("_Result")

_LENGTH_BYTES = 4
_SLICE_BYTES = 1 << 20
_FILE_NAME = re.compile(r"step-(\d{6,9})-frames-(\d{8,12})-(\d{8,12})(?:-of-(\d{8,12}))?")


class PartError(ValueError):
    """A part of a checkpoint does not fit the video it is said to belong to."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some latent frames after some steps."""

    step: int
    start: int
    count: int
    total: int = 0
    """Latent frames of the video; 0: as many as it has frames."""

    @property
    def stop(self) -> int:
        """First frame after it."""
        return self.start + self.count

    @property
    def file_name(self) -> str:
        """Says all there is to know about the file."""
        of_total = f"-of-{self.total:08d}" if self.total else ""
        return f"step-{self.step:06d}-frames-{self.start:08d}-{self.stop:08d}{of_total}"

    @classmethod
    def of_file(cls, name: str) -> Part | None:
        """The part that a file of this name holds; None: the name is none of ours."""
        match = _FILE_NAME.fullmatch(name)
        if not match:
            return None
        return cls(int(match[1]), int(match[2]), int(match[3]) - int(match[2]), int(match[4] or 0))


class CheckpointStore:
    """The folder of all generations' checkpoints, and the thread that reads and writes them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")

    def folder(self, generation_id: str, *, frame_count: int) -> CheckpointFolder:
        """Describe the folder of a generation of so many frames; nothing touches the disk before its first part."""
        return CheckpointFolder(self._root / generation_id, frame_count=frame_count, thread=self._thread)

    async def remove_others(self, known: Collection[str]) -> None:
        """Remove what belongs to no generation that is known."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, remove_other_folders, self._root, frozenset(known))

    def close(self) -> None:
        """Finish what is under way."""
        self._thread.shutdown()


class CheckpointFolder:
    """The checkpoints of one generation. Its methods belong to the event loop; only the disk is touched elsewhere."""

    def __init__(self, path: Path, *, frame_count: int, thread: ThreadPoolExecutor) -> None:
        self.newest_step = 0
        """Steps done at the newest complete checkpoint; 0: there is none."""
        self._path = path
        self._frame_count = frame_count
        self._thread = thread
        self._parts: set[Part] = set()
        self._numbers = itertools.count()

    async def recover(self) -> None:
        """Find the newest complete checkpoint that an earlier server has stored, and remove what is none."""
        self._parts = {part for part in await self._in_thread(_finished_parts, self._path) if self._is_in_video(part)}
        for step in sorted({part.step for part in self._parts}):
            if self._covers_video(step):
                self.newest_step = step
        self.drop_incomplete()

    async def begin(self, part: Part) -> UnfinishedPart:
        """Open a file for a part that comes in; end it with `keep` or `discard`.

        Raises:
            PartError: it has no frames or lies outside the video, or the video has fewer frames than it says.
            OSError: the disk refuses.
        """
        if not self._is_in_video(part):
            raise PartError(
                f"frames {part.start} to {part.stop} of {self._total(part)} after step {part.step} are not in "
                f"[0, {self._frame_count}]"
            )
        unfinished = self._path / f"{part.file_name}.{next(self._numbers)}.unfinished"
        return await self._in_thread(UnfinishedPart, unfinished, part)

    async def write(self, unfinished: UnfinishedPart, data: bytes) -> None:
        """Append to a part, or raise `OSError`."""
        await self._in_thread(unfinished.write, data)

    def discard(self, unfinished: UnfinishedPart) -> None:
        """Remove a part that was not kept; nothing happens to one that was."""
        self._clear(unfinished.discard)

    async def keep(self, unfinished: UnfinishedPart) -> bool:
        """Count a part whose bytes are all there; True when it completed a newer checkpoint than there was.

        Raises:
            OSError: the disk refuses, or the generation has ended meanwhile.
        """
        part = unfinished.part
        await self._in_thread(unfinished.finish, self._path / part.file_name)
        self._parts.add(part)
        if part.step < self.newest_step:
            self._remove({part})
        if part.step <= self.newest_step or not self._covers_video(part.step):
            return False
        self.newest_step = part.step
        self._remove({old for old in self._parts if old.step < part.step})
        return True

    async def read(self, step: int, start: int, count: int) -> AsyncIterator[bytes]:
        """Hand out the records of some frames in slices, each record with its length in front.

        Raises:
            LookupError: there is no complete checkpoint of this step, or no such frames in it.
            OSError: the disk refuses, or a file is shorter than it was.
        """
        stop = start + count
        parts = self._parts_of(self.newest_step)
        total = parts[-1].stop if parts else 0
        if step < 1 or step != self.newest_step or start < 0 or count < 1 or stop > total:
            raise LookupError(
                f"frames {start} to {stop} after step {step}: the newest checkpoint has frames 0 to {total} after step "
                f"{self.newest_step}"
            )
        for part in parts:
            first, last = max(part.start, start), min(part.stop, stop)
            if first >= last:
                continue
            path = self._path / part.file_name
            position, end = await self._in_thread(_span, path, first - part.start, last - part.start)
            while position < end:
                piece = await self._in_thread(_read, path, position, min(end - position, _SLICE_BYTES))
                position += len(piece)
                yield piece

    def drop_incomplete(self) -> None:
        """Forget parts that will never make a checkpoint: the group that sent them is gone."""
        self._remove({part for part in self._parts if part.step != self.newest_step})

    def remove(self) -> None:
        """Remove everything, when the generation has ended; parts still on their way are refused."""
        self.newest_step = 0
        self._parts.clear()
        self._clear(partial(shutil.rmtree, self._path, ignore_errors=True))

    def _is_in_video(self, part: Part) -> bool:
        total = self._total(part)
        return part.step >= 1 and part.count >= 1 and part.start >= 0 and part.stop <= total <= self._frame_count

    def _total(self, part: Part) -> int:
        return part.total or self._frame_count

    def _parts_of(self, step: int) -> list[Part]:
        """The parts of a step, in the order of their frames."""
        return sorted((part for part in self._parts if part.step == step), key=lambda part: part.start)

    def _covers_video(self, step: int) -> bool:
        position, totals = 0, set()
        for part in self._parts_of(step):
            if part.start != position:
                return False
            position = part.stop
            totals.add(self._total(part))
        return totals == {position}

    def _remove(self, parts: set[Part]) -> None:
        self._parts -= parts
        for part in parts:
            self._clear(partial((self._path / part.file_name).unlink, missing_ok=True))

    def _clear(self, work: Callable[[], None]) -> None:
        # Once the store is closed the server is about to end, and the next one removes what is of no use.
        with suppress(RuntimeError):
            self._thread.submit(work)

    async def _in_thread(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class UnfinishedPart:
    """A file under a name that nobody reads, until it is finished. Its methods belong to the store's thread."""

    def __init__(self, path: Path, part: Part) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.part = part
        self.size = 0
        """Bytes written."""
        self._path = path
        self._file: IO[bytes] | None = open(path, "xb")  # noqa: SIM115  # closed by finish and discard

    def write(self, data: bytes) -> None:
        """Append."""
        assert self._file is not None
        self._file.write(data)
        self.size += len(data)

    def finish(self, path: Path) -> None:
        """Give it its name, now that all of it is there, also for a machine that loses its power."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.rename(path)
        self._file = None

    def discard(self) -> None:
        """Remove it, unless it is finished."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
            self._file = None


def _finished_parts(folder: Path) -> set[Part]:
    """What the files of a folder hold; those that hold no part, or not all of one, are removed."""
    parts = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        part = Part.of_file(path.name)
        if part is None:
            path.unlink(missing_ok=True)
        else:
            parts.add(part)
    return parts


def _span(path: Path, first: int, last: int) -> tuple[int, int]:
    """Where the records ``first`` to before ``last`` of a file begin and end, in bytes."""
    begin = position = 0
    with open(path, "rb") as file:
        for index in range(last):
            if index == first:
                begin = position
            file.seek(position)
            length = file.read(_LENGTH_BYTES)
            if len(length) < _LENGTH_BYTES:
                raise OSError(f"{path.name} ends before record {index}")
            position += _LENGTH_BYTES + int.from_bytes(length, "little")
    return begin, position


def _read(path: Path, position: int, length: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(position)
        data = file.read(length)
    if not data:
        raise OSError(f"{path.name} ends at {position}")
    return data
