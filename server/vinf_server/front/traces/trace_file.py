"""The spans that ranks have sent, in a file beside the frames.

One record a message: who sent it, how far its clock seemed to be off, and the message, compressed. A record that is not
whole, because the front was killed meanwhile, is the last one: it is passed over, and cut off before the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2

_log = logging.getLogger(__name__)

FILE_LIMIT_BYTES = 16 << 20
"""Of one generation's trace: a hundred full ranks' worth or so would be more, two take a tenth."""

RANK_LIMIT_SPANS = 50_000
"""Of one rank in one epoch, as many as it records: no rank takes the others' room."""

_HEADER = struct.Struct("<iiqI")
"""Rank, epoch, nanoseconds from its sending to its arrival by both clocks, bytes of what follows."""


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One message of a rank, its times by this host's clock."""

    epoch: int
    offset_ns: int
    """To be added to the message's times."""
    message: link_pb2.SendTraceRequest


@dataclass(frozen=True, slots=True)
class _Place:
    rank: int
    epoch: int
    delay_ns: int
    position: int
    length: int

    @property
    def end(self) -> int:
        return self.position + self.length


class TraceFile:
    """The ranks' spans of one generation. Its methods belong to the event loop; the disk is touched in threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._size: int | None = None
        """Bytes; None: nobody has looked."""
        self._span_counts: Counter[tuple[int, int]] = Counter()
        self._is_closed = False
        self._has_told = False
        self.refused_count = 0
        """Spans that did not fit, since this server started."""

    async def append(self, message: link_pb2.SendTraceRequest, *, epoch: int, delay_ns: int) -> None:
        """Keep a message, or count its spans as refused where there is no room for it.

        Args:
            message: checked.
            epoch: of the rank.
            delay_ns: from its sending by the rank's clock to its arrival by ours; 0: it is the same clock.
        """
        sender = epoch, message.rank
        self._span_counts[sender] += len(message.spans)
        if self._span_counts[sender] > RANK_LIMIT_SPANS or not await asyncio.to_thread(
            self._append, message, epoch, delay_ns
        ):
            self.refused_count += len(message.spans)

    async def records(self) -> AsyncIterator[TraceRecord]:
        """Read what is there now, message by message; nothing where it cannot be read."""
        places = await asyncio.to_thread(self._places)
        # The fastest message tells best how far the clocks are apart.
        offsets: dict[tuple[int, int], int] = {}
        for place in places:
            sender = place.epoch, place.rank
            offsets[sender] = min(offsets.get(sender, place.delay_ns), place.delay_ns)
        for place in places:
            message = await asyncio.to_thread(self._load, place)
            if message is not None:
                yield TraceRecord(place.epoch, offsets[place.epoch, place.rank], message)

    def close(self) -> None:
        """Write nothing more: the folder is about to be removed."""
        self._is_closed = True

    # ---- in a thread ----

    def _append(self, message: link_pb2.SendTraceRequest, epoch: int, delay_ns: int) -> bool:
        data = zlib.compress(message.SerializeToString(), 1)
        record = _HEADER.pack(message.rank, epoch, delay_ns, len(data)) + data
        with self._lock:
            if self._is_closed:
                return False
            try:
                if self._size is None:
                    self._size = self._whole_bytes()
                if self._size + len(record) > FILE_LIMIT_BYTES:
                    return False
                self._path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    # What a write before left unfinished is written over or cut off.
                    os.ftruncate(descriptor, self._size)
                    if os.pwrite(descriptor, record, self._size) != len(record):
                        return False
                finally:
                    os.close(descriptor)
            except OSError as error:
                if not self._has_told:
                    _log.warning("a part of the trace %s is lost: %s", self._path, error.strerror or error)
                self._has_told = True
                return False
            self._size += len(record)
            return True

    def _whole_bytes(self) -> int:
        places = self._places()
        return places[-1].end if places else 0

    def _places(self) -> list[_Place]:
        """Where the whole records are."""
        places: list[_Place] = []
        try:
            with open(self._path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                position = 0
                while len(header := file.read(_HEADER.size)) == _HEADER.size:
                    rank, epoch, delay_ns, length = _HEADER.unpack(header)
                    place = _Place(rank, epoch, delay_ns, position + _HEADER.size, length)
                    if place.end > size:
                        break
                    places.append(place)
                    position = file.seek(place.end)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("the trace %s cannot be read: %s", self._path, error.strerror or error)
        return places

    def _load(self, place: _Place) -> link_pb2.SendTraceRequest | None:
        try:
            with open(self._path, "rb") as file:
                file.seek(place.position)
                return link_pb2.SendTraceRequest.FromString(zlib.decompress(file.read(place.length)))
        except FileNotFoundError:
            return None  # removed with its generation meanwhile
        except (OSError, DecodeError, zlib.error) as error:
            _log.warning("a part of the trace %s cannot be read: %s", self._path, error)
            return None
