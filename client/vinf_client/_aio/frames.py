"""Frames of a generation, as `_frames` reads them, awaited."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from vinf_client._aio.transport import AsyncTransport
from vinf_client._errors import naming
from vinf_client._frame import Frame
from vinf_client._frames import MENDABLE, pull_timeout
from vinf_client._reading import PullCursor, StreamCursor
from vinf_client._wanted import Wanted


def read_frames(transport: AsyncTransport, wanted: Wanted, *, prefetch: int = 0) -> AsyncGenerator[Frame, None]:
    """Yield the frames that are wanted, resuming what breaks; up to `prefetch` of them are read ahead in a task.

    Closing the generator, or abandoning it, closes the stream and leaves the generation alone. Errors are those of
    `_frames.read_frames`.
    """
    if wanted.latest:
        return pulled(transport, wanted, PullCursor(wanted))  # a frame that was read ahead would be an old one
    frames = _streamed(transport, wanted, StreamCursor(wanted))
    return _ahead(frames, prefetch) if prefetch > 0 else frames


async def pulled(transport: AsyncTransport, wanted: Wanted, cursor: PullCursor) -> AsyncGenerator[Frame, None]:
    """Yield frames by pulls, each made when its frames are asked for."""
    timeout = pull_timeout(wanted, cursor)
    with naming(wanted.request_id):
        await transport.connect()
        due: deque[Frame] = deque()
        while not cursor.ended:
            delay = 0.0
            try:
                due.extend(cursor.take(await transport.call("PullFrames", cursor.request(), timeout)))
            except MENDABLE as error:
                delay = cursor.failed(error)
            while due:
                yield due.popleft()
            await transport.pause(delay)
        cursor.finish()


async def _streamed(transport: AsyncTransport, wanted: Wanted, cursor: StreamCursor) -> AsyncGenerator[Frame, None]:
    with naming(wanted.request_id):
        await transport.connect()
        while not cursor.ended:
            stream = transport.stream("StreamFrames", cursor.request(), stall_timeout=wanted.stall_timeout)
            try:
                while (message := await stream.read()) is not None:
                    frame = cursor.take(message)
                    if frame is not None:
                        yield frame
                    if cursor.ended:
                        return
                raise cursor.broke_off()
            except MENDABLE as error:
                delay = cursor.failed(error)
            finally:
                stream.cancel()
            await transport.pause(delay)


async def _ahead(frames: AsyncGenerator[Frame, None], depth: int) -> AsyncGenerator[Frame, None]:
    """Read in a task; it stops when `depth` frames lie ready."""
    ready: asyncio.Queue[Frame | Exception | None] = asyncio.Queue(depth)
    task = asyncio.create_task(_fill(frames, ready), name="vinf-read-ahead")
    try:
        while (item := await ready.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _fill(frames: AsyncGenerator[Frame, None], ready: "asyncio.Queue[Frame | Exception | None]") -> None:
    try:
        async for frame in frames:
            await ready.put(frame)
        await ready.put(None)
    except Exception as error:  # the consumer raises it
        await ready.put(error)
    finally:
        await frames.aclose()
