"""The pictures that frames of a generation shall look like, as pixels in a file beside the frames.

They are written once, before CreateGeneration is answered, and read whenever an order goes out to the ranks: what waits
in the queue holds none of them in memory. The file is removed when the generation ends.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vinf_server.front.frames.checksum import crc32c

_CHECK = struct.Struct("<I")


class ImageFile:
    """The pictures of one generation. Its methods belong to the event loop; the disk is touched in threads."""

    def __init__(self, path: Path, *, count: int, image_size: int) -> None:
        """Describe the file; nothing touches the disk before `store`.

        Args:
            path: where it is.
            count: pictures in it; with 0 there is no file.
            image_size: of each, in bytes.
        """
        self._path = path
        self._count = count
        self._image_size = image_size
        self._held: tuple[bytes, ...] = ()
        self._is_storing = False
        self._is_removed = False

    @property
    def stored_bytes(self) -> int:
        """What it takes of the disk."""
        return 0 if self._held or self._is_removed else self._count * self._image_size

    @property
    def missing_bytes(self) -> int:
        """What it will take once it is stored."""
        return len(self._held) * self._image_size

    def hold(self, images: Sequence[bytes]) -> None:
        """Take the pixels of a new generation, RGB24; they are in memory until `store` is done."""
        assert [len(image) for image in images] == [self._image_size] * self._count
        self._held = tuple(images)

    async def store(self) -> None:
        """Put what is held on disk; it is held no longer, also if the disk refuses.

        Raises:
            OSError: the disk refuses.
        """
        self._is_storing = True
        try:
            await asyncio.to_thread(_write, self._path, self._held)
        finally:
            self._held, self._is_storing = (), False
            if self._is_removed:
                self.remove()

    async def read(self) -> tuple[bytes, ...]:
        """Return the pixels of every picture.

        Raises:
            OSError: they are not there, or not what was stored.
        """
        if self._held or not self._count:
            return self._held
        return await asyncio.to_thread(_read, self._path, self._count, self._image_size)

    def remove(self) -> None:
        """Keep them no longer; where they are being stored, once that is done."""
        if not self._count:
            return
        self._held, self._is_removed = (), True
        if not self._is_storing:
            asyncio.get_running_loop().run_in_executor(None, _remove, self._path)


def _write(path: Path, images: Sequence[bytes]) -> None:
    """Write all of it or nothing: under another name that nobody reads, then under its own.

    Frames and checkpoints can be made again, these cannot: their names are to outlive the machine, too.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            for image in images:
                file.write(image)
                file.write(_CHECK.pack(crc32c(image)))
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    for folder in (path.parent, path.parent.parent):
        _flush_folder(folder)


def _unfinished(path: Path) -> Path:
    return path.with_suffix(".unfinished")


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, count: int, image_size: int) -> tuple[bytes, ...]:
    images = []
    with open(path, "rb") as file:
        for index in range(count):
            image, check = file.read(image_size), file.read(_CHECK.size)
            if check != _CHECK.pack(crc32c(image)):
                raise OSError(f"image {index} is not what was stored")
            images.append(image)
    return tuple(images)


def _remove(path: Path) -> None:
    for file in (path, _unfinished(path)):
        file.unlink(missing_ok=True)
    with suppress(OSError):  # there are frames beside it
        path.parent.rmdir()
