"""Videos as browsers play them, each encoded once however many watch, and only while somebody does."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vinf_server.front.errors import FrameDamagedError, FrameEvictedError, GenerationNotFoundError, WrongStateError
from vinf_server.front.generations.generation import Generation
from vinf_server.front.wakeup import Wakeup, wait_any
from vinf_server.front.web.encoding import Fragment, FragmentEncoder, write_plain_file
from vinf_server.front.web.errors import NoVideoError

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_MOST_KEPT = 16
"""Encoded videos on the disk; of those that nobody watches, the one that was asked for longest ago goes first."""

_RUN_BYTES = 4 << 20
"""Raw frames that are encoded in one go of a thread, so that others get a turn."""

_READ_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class _Placed:
    first_frame: int
    begin: int
    end: int


class EncodedVideo:
    """One generation's video as it grows. Belongs to the event loop; the disk and the encoder run in threads."""

    def __init__(self, generation: Generation, folder: Path, threads: asyncio.Semaphore) -> None:
        self._generation = generation
        self._path = folder / f"{generation.generation_id}.fragments"
        self._plain = folder / f"{generation.generation_id}.mp4"
        self._threads = threads
        self._placed: list[_Placed] = []
        self._size = 0
        self._grown = Wakeup()
        self._asked = Wakeup()
        self._failure: NoVideoError | None = None
        self.mime_type = ""
        self.is_complete = False
        self._is_closed = False
        self.reader_count = 0
        self.asked_at = time.monotonic()
        self._plain_lock = asyncio.Lock()
        self._task = asyncio.create_task(self._run())

    async def opened(self) -> None:
        """Wait until the first bytes can be read; raises `NoVideoError` and `GenerationNotFoundError`."""
        await self._until(lambda: bool(self.mime_type))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While somebody wants more of it."""
        self.reader_count += 1
        self.asked_at = time.monotonic()
        self._asked.notify()
        try:
            yield
        finally:
            self.reader_count -= 1

    async def chunks(self, *, first_frame: int, is_over: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """Yield the head, and then the fragments as they are made, from the one on that holds a frame.

        Args:
            first_frame: the frame to begin with.
            is_over: asked whenever there is nothing to read; True ends the stream where it stands.
        """
        with self.reading(), suppress(FileNotFoundError):  # closed while it was read
            head = self._placed[0]
            yield await asyncio.to_thread(self._read, head.begin, head.end)
            begin = next((p.begin for p in reversed(self._placed[1:]) if p.first_frame <= first_frame), head.end)
            while True:
                if begin < self._size:
                    data = await asyncio.to_thread(self._read, begin, min(self._size, begin + _READ_BYTES))
                    begin += len(data)
                    yield data
                elif self.is_complete or self._is_closed or self._failure is not None or is_over():
                    return
                else:
                    await wait_any(self._grown, self._generation.changed)

    async def plain_file(self) -> Path:
        """Return a file for every player, once the video has been encoded to its end.

        Raises:
            NoVideoError: it cannot be encoded.
            GenerationNotFoundError: it was deleted meanwhile.
            WrongStateError: frames are still being made.
        """
        if not self._generation.is_terminal:
            raise WrongStateError(
                f"generation {self._generation.generation_id} has not ended; its file is there when it has",
                generationId=self._generation.generation_id,
            )
        with self.reading():
            await self._until(lambda: self.is_complete)
        if len(self._placed) < 2:
            raise NoVideoError("there is not a single frame of this generation")
        async with self._plain_lock:
            if not self._plain.exists():
                await self._in_thread(write_plain_file, self._path, self._plain)
        return self._plain

    async def close(self) -> None:
        """Encode no more of it, end the streams of it, and remove the files."""
        self._is_closed = True
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._grown.notify()
        for path in (self._path, self._plain):
            path.unlink(missing_ok=True)

    # ---- inside ----

    async def _until(self, is_there: Callable[[], bool]) -> None:
        """Wait for something of it; raises why that will not come."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._is_closed:  # a watched one makes no room for others
                name = self._generation.generation_id
                raise GenerationNotFoundError(f"generation {name} was deleted", generationId=name)
            if is_there():
                return
            await self._grown.wait()

    async def _run(self) -> None:
        try:
            await self._encode()
        except NoVideoError as error:
            self._failure = error
        except OSError as error:
            self._failure = NoVideoError(f"the video cannot be written: {error.strerror or error}")
        except Exception:
            _log.exception("generation %s: its video could not be encoded", self._generation.generation_id)
            self._failure = NoVideoError("the video could not be encoded; the server's log says more")
        finally:
            self._grown.notify()

    async def _encode(self) -> None:
        generation, frames = self._generation, self._generation.frames
        encoder = await self._in_thread(FragmentEncoder, generation.resolved_spec)
        await self._append([Fragment(0, encoder.head)])
        self.mime_type = encoder.mime_type
        self._grown.notify()
        most = max(1, _RUN_BYTES // frames.frame_size)
        index = frames.first_available
        while index < frames.frame_count:
            index = max(index, frames.first_available)
            count = frames.complete_run(index, min(index + most, frames.frame_count))
            if not self.reader_count:
                await self._asked.wait()
            elif count:
                index += await self._encode_run(encoder, index, count)
            elif generation.is_terminal or generation.is_forgotten:
                break
            else:
                await wait_any(generation.changed)
        await self._append(await self._in_thread(encoder.finish))
        self.is_complete = True

    async def _encode_run(self, encoder: FragmentEncoder, index: int, count: int) -> int:
        """Encode frames that are there; returns how many are done with, damaged ones among them."""
        frames = self._generation.frames
        try:
            descriptor = await frames.open_reader()
            try:
                pixels = await frames.read(descriptor, index, count)
            finally:
                os.close(descriptor)
        except FrameEvictedError:
            return 0
        except FrameDamagedError:
            # One by one, to find those that are not.
            return 1 if count == 1 else await self._encode_run(encoder, index, 1)
        await self._append(await self._in_thread(encoder.add, index, pixels))
        return count

    async def _append(self, fragments: list[Fragment]) -> None:
        for fragment in fragments:
            await asyncio.to_thread(self._write, fragment.data)
            begin, self._size = self._size, self._size + len(fragment.data)
            self._placed.append(_Placed(fragment.first_frame, begin, self._size))
        if fragments:
            self._grown.notify()

    def _write(self, data: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(data)

    def _read(self, begin: int, end: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)

    async def _in_thread(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        async with self._threads:
            return await asyncio.to_thread(function, *arguments)


class Videos:
    """The videos that were asked for, in files that go with the server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(mode=0o700)
        self._threads = asyncio.Semaphore(1)
        """The ranks' host threads need the cores, too."""
        self._videos: dict[str, EncodedVideo] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def of(self, generation: Generation) -> EncodedVideo:
        """Return the video of a generation, which begins to be encoded unless it has been.

        Raises:
            NoVideoError: it cannot be encoded.
            GenerationNotFoundError: it was deleted meanwhile.
        """
        video = self._videos.get(generation.generation_id)
        if video is None:
            video = EncodedVideo(generation, self._folder, self._threads)
            self._videos[generation.generation_id] = video
        with video.reading():  # or the new one could be what goes, where all others are watched
            self._make_room()
            await video.opened()
        return video

    def forget(self, generation_id: str) -> None:
        """Remove a video, because its generation was forgotten or to make room."""
        video = self._videos.pop(generation_id, None)
        if video is not None:
            closing = asyncio.create_task(video.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Encode no more."""
        for generation_id in tuple(self._videos):
            self.forget(generation_id)
        await asyncio.gather(*self._closing)

    def _make_room(self) -> None:
        unwatched = [(v.asked_at, name) for name, v in self._videos.items() if not v.reader_count]
        for _, name in sorted(unwatched)[: max(0, len(self._videos) - _MOST_KEPT)]:
            self.forget(name)
