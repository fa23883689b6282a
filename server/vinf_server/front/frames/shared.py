"""Frames in the formats that readers ask for, each made once for all readers.

A frame is read, converted, checksummed and packed into messages in threads. What is made is kept for the readers behind
the first one, up to a number of bytes: a reader far behind makes it anew, so that slow readers cost time and no memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from vinf.v1 import frame_pb2, video_generation_service_pb2
from vinf_server.front.errors import FrameDamagedError, GenerationNotFoundError
from vinf_server.front.frames.cache import SharedCache
from vinf_server.front.frames.checksum import crc32c
from vinf_server.front.frames.conversion import convert
from vinf_server.front.frames.formats import ENCODING_NAMES, PIXEL_FORMAT_NAMES, Format
from vinf_server.front.frames.turns import Turns
from vinf_server.front.frames.video import Rendition, Video
from vinf_server.front.frames.wire import frame_field
from vinf_server.front.metrics import Metrics

_BUDGET_BYTES = 64 << 20

_RUN_BYTES = 1 << 20
"""Small frames are made together up to this size: a thread hop costs more than 12 KiB."""

_THREADS = 2
"""Frames that are made at the same time; more would take the cores that the event loop needs."""

_MESSAGES_PER_PASS = 2
"""Of all readers, in a pass of the event loop: a message takes it a sixth of a millisecond."""

_FRAME = video_generation_service_pb2.StreamFramesResponse.DESCRIPTOR.fields_by_name["frame"].number

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame in one format."""

    data: memoryview
    crc32c: int

    @property
    def size_bytes(self) -> int:
        """Memory it takes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Packed:
    """A frame as the messages of a stream, serialised."""

    messages: tuple[bytes, ...]
    data_bytes: int
    """Of the frame itself."""

    @property
    def size_bytes(self) -> int:
        """Memory it takes."""
        return sum(map(len, self.messages))


class SharedFrames:
    """Makes frames for readers. Its methods belong to the event loop."""

    def __init__(self, metrics: Metrics, *, budget_bytes: int = _BUDGET_BYTES) -> None:
        self._metrics = metrics.delivery
        self._cache = SharedCache(budget_bytes, on_resize=metrics.delivery.frame_cache_bytes.set)
        self._threads = asyncio.Semaphore(_THREADS)
        self.turns = Turns(_MESSAGES_PER_PASS)
        """Of those who send what is made here."""

    @property
    def size_bytes(self) -> int:
        """Memory that the frames kept now take."""
        return self._cache.size_bytes

    async def picture(self, rendition: Rendition, frame_index: int) -> Picture:
        """Return a complete frame.

        Raises:
            FrameEvictedError: it was dropped.
            GenerationNotFoundError: the generation was deleted.
        """
        known = self._cache.get((*_identity(rendition), frame_index))
        if known is not None:
            return cast(Picture, known)
        keys = self._run(rendition, frame_index)

        async def load(count: int) -> Sequence[Picture]:
            return await self._make_pictures(rendition, frame_index, count)

        return cast(Picture, await self._cache.fetch(keys, load))

    async def packed(self, rendition: Rendition, frame_index: int, slice_bytes: int) -> Packed:
        """Return a complete frame as messages with at most so many of its bytes in each; raises as `picture`."""
        known = self._cache.get((*_identity(rendition), frame_index, slice_bytes))
        if known is not None:
            return cast(Packed, known)
        keys = [(*key, slice_bytes) for key in self._run(rendition, frame_index)]

        async def load(count: int) -> Sequence[Packed]:
            # One after the other: the first one makes the others.
            pictures = [await self.picture(rendition, frame_index + offset) for offset in range(count)]
            facts = [rendition.facts(frame_index + offset) for offset in range(count)]
            packed = await self.in_thread(_pack_all, facts, pictures, slice_bytes)
            _check_known(rendition.video)
            return packed

        return cast(Packed, await self._cache.fetch(keys, load))

    def forget(self, generation_id: str) -> None:
        """Let go of the frames of a generation that was deleted; no more of them are made."""
        self._cache.drop(lambda key: isinstance(key, tuple) and key[0] == generation_id)

    async def in_thread(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        """Run something that takes long off the event loop, when it is its turn."""
        async with self._threads:
            return await asyncio.to_thread(function, *arguments)

    def _run(self, rendition: Rendition, frame_index: int) -> list[tuple[Hashable, ...]]:
        """Keys of a frame and of those behind it that are there and as well made with it."""
        frames = rendition.video.frames
        most = max(1, _RUN_BYTES // frames.frame_size)
        count = frames.complete_run(frame_index, min(frames.frame_count, frame_index + most))
        assert count, f"frame {frame_index} is not complete"
        return [(*_identity(rendition), frame_index + offset) for offset in range(count)]

    async def _make_pictures(self, rendition: Rendition, first: int, count: int) -> list[Picture]:
        video = rendition.video
        try:
            descriptor = await video.frames.open_reader()
            try:
                pixels = await video.frames.read(descriptor, first, count)
            finally:
                os.close(descriptor)
        except FrameDamagedError as error:
            _check_known(video)
            _log.error("generation %s: %s", video.generation_id, error)
            raise
        # Dropped while it was read: its place may hold something else.
        video.frames.check_available(first)
        output = rendition.output
        pictures, seconds = await self.in_thread(
            _make_all, pixels, count, rendition.header.width, rendition.header.height, output
        )
        encoding = ENCODING_NAMES[output.encoding]
        self._metrics.frame_conversions.labels(encoding).inc(count)
        duration = self._metrics.encode_duration.labels(encoding, PIXEL_FORMAT_NAMES[output.pixel_format])
        for each in seconds:
            duration.observe(each)
        _check_known(video)
        return pictures


def _check_known(video: Video) -> None:
    if video.is_forgotten:
        raise GenerationNotFoundError(f"generation {video.generation_id} was deleted", generationId=video.generation_id)


def _identity(rendition: Rendition) -> tuple[Hashable, ...]:
    return rendition.video.generation_id, rendition.output


def _make_all(pixels: bytes, count: int, width: int, height: int, output: Format) -> tuple[list[Picture], list[float]]:
    """Frames in a format, and the seconds that each took to be turned into it."""
    size = len(pixels) // count
    pictures, seconds = [], []
    for start in range(0, len(pixels), size):
        # Copied where there are several: a view would keep all of them in memory.
        frame = pixels[start : start + size]
        began = time.perf_counter()
        data = convert(frame, width, height, output)
        seconds.append(time.perf_counter() - began)
        pictures.append(Picture(data, crc32c(data)))
    return pictures, seconds


def _pack_all(facts: Sequence[frame_pb2.Frame], pictures: Sequence[Picture], slice_bytes: int) -> list[Packed]:
    return [_pack(*each, slice_bytes) for each in zip(facts, pictures, strict=True)]


def _pack(facts: frame_pb2.Frame, picture: Picture, slice_bytes: int) -> Packed:
    size = len(picture.data)
    messages = tuple(
        b"".join(frame_field(_FRAME, facts, picture.data, picture.crc32c, begin, min(begin + slice_bytes, size)))
        for begin in range(0, size, slice_bytes)
    )
    return Packed(messages, size)
