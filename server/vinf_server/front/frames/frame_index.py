"""Which frames of a spool file are whole: an append-only file beside it, one record a frame.

A record is written after the bytes of its frame, so what it names was there. It carries the frame's CRC-32C and one of
its own: a record that was cut off or never reached the disk is told from a good one, and ends the file. Nothing is
flushed on the way: the end of the process loses nothing that was written, the end of the machine may, and then the
checksums say which frames are gone.

Frames that are dropped from the beginning on are told by a record, too: one whose frame index no frame has.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vinf_server.front.frames.checksum import crc32c

_MAGIC = b"vinfidx1"
_FIELDS = struct.Struct("<IIQ")
_CHECK = struct.Struct("<I")
RECORD_BYTES = _FIELDS.size + _CHECK.size
_DROPPED = 0xFFFF_FFFF
"""Frame index of a record that says how many frames were dropped, in place of a time."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an index says."""

    frames: dict[int, FrameRecord]
    """By frame index; the newest record of a frame counts."""

    dropped_count: int
    """Frames that are no longer kept, from the first one on."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame that was complete."""

    frame_index: int
    crc32c: int
    complete_time_us: int
    """Microseconds since the Unix epoch."""


class FrameIndexWriter:
    """Appends records; belongs to whoever holds the spool file's lock."""

    def __init__(self, path: Path) -> None:
        """Go on behind the last good record.

        Raises:
            OSError: the disk refuses.
        """
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._end = len(_MAGIC) + RECORD_BYTES * sum(1 for _ in _records(path.read_bytes()))
            os.ftruncate(self._descriptor, self._end)
            write_all(self._descriptor, _MAGIC, 0)
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, record: FrameRecord) -> None:
        """Write one record, or raise `OSError`; the next one takes the place of one that failed."""
        write_all(self._descriptor, _pack(record), self._end)
        self._end += RECORD_BYTES

    def append_dropped(self, count: int) -> None:
        """Record that the first so many frames are kept no longer, or raise `OSError`."""
        self.append(FrameRecord(_DROPPED, 0, count))

    def flush(self) -> None:
        """Let it outlive the machine, or raise `OSError`."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def write_all(descriptor: int, data: bytes | memoryview, position: int) -> None:
    """Write every byte at a place of a file, or raise `OSError`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written


def read_index(path: Path) -> Recorded:
    """Everything that good records say; nothing when there is no such file, or when it is no index."""
    frames: dict[int, FrameRecord] = {}
    dropped_count = 0
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    for record in _records(data):
        if record.frame_index == _DROPPED:
            dropped_count = max(dropped_count, record.complete_time_us)
        else:
            frames[record.frame_index] = record
    return Recorded(frames, dropped_count)


def _pack(record: FrameRecord) -> bytes:
    fields = _FIELDS.pack(record.frame_index, record.crc32c, record.complete_time_us)
    return fields + _CHECK.pack(crc32c(fields))


def _records(data: bytes) -> Iterator[FrameRecord]:
    if not data.startswith(_MAGIC):
        return
    for begin in range(len(_MAGIC), len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        fields = data[begin : begin + _FIELDS.size]
        if _CHECK.unpack_from(data, begin + _FIELDS.size)[0] != crc32c(fields):
            return
        yield FrameRecord(*_FIELDS.unpack(fields))
