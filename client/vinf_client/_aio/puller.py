"""Frames for a loop of one's own, pulled by a task."""

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Self

from vinf_client._aio.frames import pulled
from vinf_client._aio.transport import AsyncTransport
from vinf_client._buffer import FrameBuffer, no_frame_within
from vinf_client._errors import VinfError
from vinf_client._frame import Frame
from vinf_client._reading import PullCursor
from vinf_client._stats import PullerStats
from vinf_client._wanted import Wanted


class AsyncFramePuller:
    """Pulls the frames of a generation; use it in an `async with` statement, or `close` it.

    >>> async with handle.pull(latency="low") as puller:                                     # doctest: +SKIP
    ...     while not puller.ended:
    ...         frame = puller.latest()
    ...         await asyncio.sleep(1 / 60)
    """

    def __init__(self, transport: AsyncTransport, wanted: Wanted, *, capacity: int) -> None:
        buffer = FrameBuffer(capacity, only_latest=wanted.latest, start=wanted.start)
        self._state = state = _State(buffer)
        wanted = replace(wanted, on_wait=_counting(buffer, wanted.on_wait))
        self._task = asyncio.create_task(_pump(transport, wanted, PullCursor(wanted), state), name="vinf-pull")
        self._finalizer = weakref.finalize(self, _cancel_soon, asyncio.get_running_loop(), self._task)
        self._finalizer.atexit = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """Yield `next` until the video is over."""
        while (frame := await self.next()) is not None:
            yield frame

    @property
    def ended(self) -> bool:
        """Whether every frame was taken and no more will come."""
        return self._state.buffer.ended

    @property
    def stats(self) -> PullerStats:
        """What it did so far: frames received, taken, dropped and skipped, bytes, reconnects, waits."""
        return self._state.buffer.stats

    def latest(self) -> Frame | None:
        """Return the newest frame that has arrived, the same one again where none is newer, None before the first.

        It never waits. Frames that arrived before it are dropped.

        Raises:
            GenerationFailedError, GenerationCancelledError, TransportError: no further frame will come.
        """
        frame = self._state.buffer.latest()
        self._state.taken.set()
        return frame

    async def next(self, timeout: float | None = None) -> Frame | None:
        """Wait for the frame after the one that was taken last, and return it; None when the video is over.

        Raises:
            RpcTimeoutError: it did not come within `timeout` seconds.
            GenerationFailedError, GenerationCancelledError, TransportError: no further frame will come.
        """
        state = self._state
        if not state.buffer.is_due:
            began = time.monotonic()
            try:
                async with asyncio.timeout(timeout):
                    while not state.buffer.is_due:
                        state.came.clear()
                        await state.came.wait()
            except TimeoutError as error:
                raise no_frame_within(timeout) from error
            finally:
                state.buffer.waited(time.monotonic() - began)
        frame = state.buffer.take()
        state.taken.set()
        return frame

    async def close(self) -> None:
        """Stop pulling; frames that are ready can still be taken. The generation goes on. A no-op the second time."""
        self._finalizer.detach()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    aclose = close


class _State:
    """What the task needs: not the puller, which would then never be collected."""

    def __init__(self, buffer: FrameBuffer) -> None:
        self.buffer = buffer
        self.came = asyncio.Event()
        self.taken = asyncio.Event()


async def _pump(transport: AsyncTransport, wanted: Wanted, cursor: PullCursor, state: _State) -> None:
    failure: Exception | None = None
    try:
        async with aclosing(pulled(transport, wanted, cursor)) as frames:
            async for frame in frames:
                while not state.buffer.has_room:
                    state.taken.clear()
                    await state.taken.wait()
                state.buffer.put(frame)
                state.came.set()
    except Exception as error:  # who takes the frames raises it
        failure = error
    finally:
        state.buffer.finish(failure)
        state.came.set()


def _counting(buffer: FrameBuffer, on_wait: Callable[[VinfError], None] | None) -> Callable[[VinfError], None]:
    def waiting(reason: VinfError) -> None:
        buffer.reconnected()
        if on_wait is not None:
            on_wait(reason)

    return waiting


def _cancel_soon(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
