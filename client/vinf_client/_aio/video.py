"""The video one iterates over, and which ends with its reader, awaited."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from vinf_client._aio.generation import AsyncGenerationHandle, write_frames
from vinf_client._errors import VinfError
from vinf_client._format import FormatLike
from vinf_client._frame import Frame
from vinf_client._generation import PREFETCH, OnProgress, OnWait
from vinf_client._saving import Saving
from vinf_client._video import CANCEL_TIMEOUT

log = logging.getLogger("vinf_client")


class AsyncVideo:
    """A video being made: iterate over its frames as they arrive, with ``async for``.

    Leaving early, by `break`, by an exception or by `close`, cancels the generation, unless it is detached. ``async
    with`` makes the moment certain.
    """

    def __init__(
        self,
        handle: AsyncGenerationHandle,
        *,
        format: FormatLike = None,
        latency: str = "all",
        prefetch: int = PREFETCH,
        on_progress: OnProgress | None = None,
        on_wait: OnWait | None = None,
        cancel_on_leave: bool = True,
    ) -> None:
        self.handle = handle
        self._format = format
        self._latency = latency
        self._prefetch = prefetch
        self._cancel_on_leave = cancel_on_leave
        self._on_progress = on_progress
        self._on_wait = on_wait
        self._over = False
        spec = handle.generation.spec
        self.generation_id: str = handle.generation_id
        self.frame_count: int = spec.frame_count
        self.width: int = spec.width
        self.height: int = spec.height
        self.frame_rate: Fraction = spec.frame_rate

    def __len__(self) -> int:
        return self.frame_count

    def __repr__(self) -> str:
        return f"AsyncVideo({self.generation_id!r}, {self.frame_count} frames of {self.width}x{self.height})"

    def __aiter__(self) -> AsyncIterator[Frame]:
        """Read from the first frame; a second iteration reads the same frames again."""
        return self._read()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel the generation unless it is over or detached. A no-op the second time."""
        if self._over or not self._cancel_on_leave:
            return
        self._over = True
        # Errors here would hide what made the caller leave; an unreachable server ends the generation by itself.
        with suppress(VinfError):
            await self.handle.cancel(timeout=CANCEL_TIMEOUT)
            log.info("generation %s: cancelled, its reader left", self.generation_id)

    aclose = close

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file as it is made, and return its path; see `AsyncGenerationHandle.save`.

        Raises:
            OutputError: it cannot be written there; the generation is cancelled unless it is detached.
            GenerationFailedError, GenerationCancelledError: the generation ended before its last frame.
        """
        try:
            saving = await asyncio.to_thread(Saving.prepare, path, self.handle.generation.spec)
            return await write_frames(saving, self._read())
        finally:
            await self.close()

    async def _read(self) -> AsyncGenerator[Frame, None]:
        frames = self.handle.frames(
            format=self._format, latency=self._latency, prefetch=self._prefetch, on_wait=self._on_wait
        )
        progress = self.handle.watch(self._on_progress) if self._on_progress is not None else None
        try:
            async with aclosing(frames):
                async for frame in frames:
                    yield frame
            self._over = True
        except VinfError:
            # It failed, or the server is out of reach for good: nothing is left to cancel.
            self._over = True
            raise
        finally:
            if progress is not None:
                await progress.close()
            await self.close()
