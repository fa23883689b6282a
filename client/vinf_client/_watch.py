"""Snapshots of a generation as it changes, with the events that led to them."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client import _convert
from vinf_client._errors import ServerNotReadyError, StallError, TransportError, VinfError
from vinf_client._retry import Attempts, Backoff
from vinf_client._transport import Transport
from vinf_client._types import Progress, Update

if TYPE_CHECKING:
    from vinf_client._transport import Stream

log = logging.getLogger("vinf_client")

_CLOSE_TIMEOUT = 5.0  # seconds


class WatchCursor:
    """What the updates of one generation have told so far. It knows no transport.

    Each event comes once, however often the stream breaks.

    Args:
        generation_id: whose updates.
        backoff: how often in a row a broken stream is opened again.
        after_sequence: events up to this one are known already.
        previews: whether to bring previews, too.
        on_wait: called with each break before the next try.
    """

    def __init__(
        self,
        generation_id: str,
        *,
        backoff: Backoff,
        after_sequence: int = 0,
        previews: bool = False,
        on_wait: Callable[[VinfError], None] | None = None,
    ) -> None:
        self._generation_id = generation_id
        self._sequence = after_sequence
        self._previews = previews
        self._attempts = Attempts(backoff, on_failure=on_wait)
        self._brought_any = False
        self.ended = False

    def request(self) -> service_pb.WatchGenerationRequest:
        """Return what opens a stream."""
        self._brought_any = False
        return service_pb.WatchGenerationRequest(
            generation_id=self._generation_id, after_sequence=self._sequence, with_previews=self._previews
        )

    def take(self, message: service_pb.WatchGenerationResponse) -> Update:
        """Read a message; events that were told before the stream broke are left out."""
        self._attempts.progressed()
        self._brought_any = True
        events = tuple(_convert.event(event) for event in message.events if event.sequence > self._sequence)
        if events:
            self._sequence = events[-1].sequence
        previews = tuple(_convert.preview(preview) for preview in message.previews)
        update = Update(_convert.generation(message.generation), events, previews)
        self.ended = update.generation.ended
        return update

    def broke_off(self) -> TransportError:
        """Return the error of a stream that stopped without an end."""
        return TransportError("the stream of snapshots ended early", code="UNAVAILABLE")

    def failed(self, error: VinfError) -> float:
        """Return the seconds to wait before the next try, or raise `error`; call it while `error` is handled."""
        if isinstance(error, StallError) and self._brought_any:
            return 0.0  # nothing changed for long, which is no failure; a new stream tells whether the server is there
        return self._attempts.failed(error)


class Watch:
    """Iterates over the updates of one generation until it has ended, resuming broken streams.

    One thread iterates; any thread may `close`, which ends the iteration.

    Args:
        transport: to the server.
        cursor: what is known already.
        stall_timeout: seconds of silence after which the stream is opened again.
    """

    def __init__(self, transport: Transport, cursor: WatchCursor, *, stall_timeout: float | None = None) -> None:
        self._transport = transport
        self._cursor = cursor
        self._stall_timeout = stall_timeout
        self._closed = transport.waker()
        self._stream: Stream[service_pb.WatchGenerationResponse] | None = None

    def __iter__(self) -> Iterator[Update]:
        transport, cursor = self._transport, self._cursor
        transport.connect()
        while not (cursor.ended or self._closed.is_set()):
            stream = transport.stream("WatchGeneration", cursor.request(), stall_timeout=self._stall_timeout)
            self._stream = stream
            if self._closed.is_set():  # set while the stream was opened
                stream.cancel()
            try:
                for message in stream:
                    yield cursor.take(message)
                    if cursor.ended:
                        return
                raise cursor.broke_off()
            except (TransportError, ServerNotReadyError) as error:
                if self._closed.is_set():
                    break
                delay = cursor.failed(error)
            finally:
                stream.cancel()
            transport.pause(delay, self._closed)
        if not cursor.ended:
            transport.pause(0)  # raises where it was the client that was closed

    def close(self) -> None:
        """End the iteration soon."""
        self._closed.set()
        if self._stream is not None:
            self._stream.cancel()


class ProgressThread:
    """Calls back with the progress of a generation from a thread of its own, until closed."""

    def __init__(self, watch: Watch, callback: Callable[[Progress], None]) -> None:
        self._watch = watch
        self._callback = callback
        self._thread = threading.Thread(target=self._run, name="vinf-progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop calling back; at most one call is still under way when this returns late."""
        self._watch.close()
        self._thread.join(_CLOSE_TIMEOUT)

    def _run(self) -> None:
        try:
            for update in self._watch:
                self._callback(update.generation.progress)
        except VinfError as error:
            # Progress is a courtesy: the frames, or `wait`, report what is wrong with the generation.
            log.info("progress of the generation is no longer known: %s", error)
        except Exception:
            log.exception("on_progress failed and is not called again")
