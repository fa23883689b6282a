"""Snapshots of a generation as it changes, awaited."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from vinf_client._aio.transport import AsyncTransport
from vinf_client._errors import ServerNotReadyError, TransportError, VinfError
from vinf_client._types import Progress, Update
from vinf_client._watch import WatchCursor

log = logging.getLogger("vinf_client")


async def watch(
    transport: AsyncTransport, cursor: WatchCursor, *, stall_timeout: float | None
) -> AsyncGenerator[Update, None]:
    """Yield the updates of one generation until it has ended, resuming broken streams."""
    await transport.connect()
    while not cursor.ended:
        stream = transport.stream("WatchGeneration", cursor.request(), stall_timeout=stall_timeout)
        try:
            while (message := await stream.read()) is not None:
                yield cursor.take(message)
                if cursor.ended:
                    return
            raise cursor.broke_off()
        except (TransportError, ServerNotReadyError) as error:
            delay = cursor.failed(error)
        finally:
            stream.cancel()
        await transport.pause(delay)


class ProgressTask:
    """Calls back with the progress of a generation from a task of its own, until closed."""

    def __init__(self, updates: AsyncGenerator[Update, None], callback: Callable[[Progress], None]) -> None:
        self._task = asyncio.create_task(_tell(updates, callback), name="vinf-progress")

    async def close(self) -> None:
        """Stop calling back. A no-op the second time."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    aclose = close


async def _tell(updates: AsyncGenerator[Update, None], callback: Callable[[Progress], None]) -> None:
    try:
        async with aclosing(updates):
            async for update in updates:
                callback(update.generation.progress)
    except VinfError as error:
        # Progress is a courtesy: the frames, or `wait`, report what is wrong with the generation.
        log.info("progress of the generation is no longer known: %s", error)
    except Exception:
        log.exception("on_progress failed and is not called again")
