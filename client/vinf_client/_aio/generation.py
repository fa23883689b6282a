"""A generation in the hands of its owner, awaited."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, nullcontext
from pathlib import Path

from vinf_client import _flows
from vinf_client._aio.frames import read_frames
from vinf_client._aio.puller import AsyncFramePuller
from vinf_client._aio.transport import AsyncTransport
from vinf_client._aio.watch import ProgressTask, watch
from vinf_client._errors import naming
from vinf_client._format import FormatLike
from vinf_client._frame import Frame
from vinf_client._generation import CAPACITY, PREFETCH, OnProgress, OnWait
from vinf_client._retry import Persistence
from vinf_client._saving import Saving
from vinf_client._trace import Trace
from vinf_client._types import Generation, Progress, Update
from vinf_client._wanted import Wanted
from vinf_client._watch import WatchCursor


class AsyncGenerationHandle:
    """One generation on a server: `GenerationHandle`, awaited."""

    def __init__(
        self,
        transport: AsyncTransport,
        generation: Generation,
        *,
        persistence: Persistence,
        request_id: str = "",
        deduplicated: bool = False,
    ) -> None:
        self._transport = transport
        self._persistence = persistence
        self.generation = generation
        """The newest snapshot this handle has seen."""

        self.request_id = request_id
        """That of the call that created it; empty where another client did."""

        self.deduplicated = deduplicated
        """Whether an earlier call with the same request id had created it, so that nothing new was started."""

    def __repr__(self) -> str:
        return f"AsyncGenerationHandle({self.generation_id!r}, {self.generation.state.value})"

    @property
    def generation_id(self) -> str:
        """What `Client.attach` takes."""
        return self.generation.generation_id

    @property
    def progress(self) -> Awaitable[Progress]:
        """How far it has come; asks the server: ``await handle.progress``."""
        return self._progress()

    async def refresh(self) -> Generation:
        """Ask the server for a new snapshot."""
        return await self._note(_flows.get(self.generation_id))

    def frames(
        self,
        start: int = 0,
        *,
        stop: int | None = None,
        format: FormatLike = None,
        latency: str = "all",
        prefetch: int = PREFETCH,
        on_wait: OnWait | None = None,
    ) -> AsyncGenerator[Frame, None]:
        """Iterate over the frames as they are made; arguments and errors are those of `GenerationHandle.frames`.

        Leaving early, also by losing the iterator, closes the stream and leaves the generation alone.
        """
        wanted = self._wanted(start, stop, format, on_wait).check(latency, prefetch=prefetch)
        return read_frames(self._transport, wanted, prefetch=prefetch)

    def pull(
        self,
        start: int = 0,
        *,
        stop: int | None = None,
        format: FormatLike = None,
        latency: str = "all",
        capacity: int = CAPACITY,
        on_wait: OnWait | None = None,
    ) -> AsyncFramePuller:
        """Return a puller; arguments and errors are those of `GenerationHandle.pull`. Needs a running event loop."""
        wanted = self._wanted(start, stop, format, on_wait).check(latency, capacity=capacity)
        return AsyncFramePuller(self._transport, wanted, capacity=max(1, capacity))

    def watch(self, on_progress: OnProgress) -> ProgressTask:
        """Call back with each change from a task of the SDK, until the result is closed. Needs a running event loop."""
        return ProgressTask(
            self._watch(WatchCursor(self.generation_id, backoff=self._persistence.backoff)), on_progress
        )

    async def updates(
        self, after_sequence: int = 0, *, previews: bool = False, on_wait: OnWait | None = None
    ) -> AsyncGenerator[Update, None]:
        """Iterate over snapshots and changes of state; arguments and errors are those of `GenerationHandle.updates`."""
        cursor = WatchCursor(
            self.generation_id,
            backoff=self._persistence.backoff,
            after_sequence=after_sequence,
            previews=previews,
            on_wait=on_wait,
        )
        with naming(self.request_id):
            async with aclosing(self._watch(cursor)) as updates:
                async for update in updates:
                    self.generation = update.generation
                    yield update

    async def wait(self, timeout: float | None = None) -> Generation:
        """Wait until it succeeded, and return the last snapshot; errors are those of `GenerationHandle.wait`."""
        if timeout is None:
            async with aclosing(self.updates()) as updates:
                async for _ in updates:
                    pass
        else:
            await self._note(_flows.poll_end(self.generation_id, timeout))
        with naming(self.request_id):
            return _flows.succeeded(self.generation)

    async def save(
        self,
        path: str | os.PathLike[str],
        *,
        start: int = 0,
        stop: int | None = None,
        on_progress: OnProgress | None = None,
        on_wait: OnWait | None = None,
    ) -> Path:
        """Write the frames to a file as they are made; arguments and errors are those of `GenerationHandle.save`.

        Encoding and writing happen in threads.
        """
        spec = self.generation.spec
        saving = await asyncio.to_thread(Saving.prepare, path, spec, start=start, stop=stop)
        async with aclosing(self.watch(on_progress)) if on_progress is not None else nullcontext():
            return await write_frames(saving, self.frames(start, stop=stop, on_wait=on_wait))

    async def cancel(self, *, timeout: float | None = None) -> Generation:
        """Ask for its end, and return the snapshot after; a finished generation stays as it is."""
        return await self._note(_flows.cancel(self.generation_id, timeout))

    async def trace(self) -> Trace:
        """Return what the server and every rank did for it, and when; as far as it is known while it is made."""
        with naming(self.request_id):
            return await self._transport.run(_flows.trace(self.generation_id))

    async def delete(self) -> None:
        """Have the server forget it and remove its frames.

        Raises:
            WrongStateError: it has not ended; cancel it first.
            GenerationNotFoundError: it is deleted already.
        """
        with naming(self.request_id):
            await self._transport.run(_flows.delete(self.generation_id))

    async def _progress(self) -> Progress:
        return (await self.refresh()).progress

    async def _note(self, flow: _flows.Flow[Generation]) -> Generation:
        with naming(self.request_id):
            self.generation = await self._transport.run(flow)
        return self.generation

    def _wanted(self, start: int, stop: int | None, format: FormatLike, on_wait: OnWait | None) -> Wanted:
        return Wanted(
            generation_id=self.generation_id,
            start=start,
            stop=stop,
            output=format,
            request_id=self.request_id,
            persistence=self._persistence,
            on_wait=on_wait,
        )

    def _watch(self, cursor: WatchCursor) -> AsyncGenerator[Update, None]:
        return watch(self._transport, cursor, stall_timeout=self._persistence.stall_timeout)


async def write_frames(saving: Saving, frames: AsyncGenerator[Frame, None]) -> Path:
    """Write every frame, and return where; all that takes time happens in one thread, in order."""
    loop = asyncio.get_running_loop()
    writer = saving.open()
    with ThreadPoolExecutor(1, thread_name_prefix="vinf-save") as thread:
        await loop.run_in_executor(thread, writer.__enter__)
        try:
            async with aclosing(frames):
                async for frame in frames:
                    await loop.run_in_executor(thread, writer.write, frame)
        except BaseException as error:
            await loop.run_in_executor(thread, writer.__exit__, type(error), error, error.__traceback__)
            raise
        await loop.run_in_executor(thread, writer.__exit__, None, None, None)
    return saving.path
