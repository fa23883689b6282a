"""Snapshots of a generation as it changes, with the events that led to them."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client import _convert
from vinf_client._errors import ServerNotReadyError, TransportError, VinfError
from vinf_client._retry import Attempts, Backoff
from vinf_client._transport import Transport
from vinf_client._types import Progress, Update

if TYPE_CHECKING:
    from vinf_client._transport import Stream

log = logging.getLogger("vinf_client")

_CLOSE_TIMEOUT = 5.0  # seconds


class Watch:
    """Iterates over the updates of one generation until it has ended, resuming broken streams.

    Each event comes once, however often the stream breaks. One thread iterates; any thread may `close`, which ends
    the iteration.

    Args:
        transport: to the server.
        generation_id: whose updates.
        backoff: how often in a row a broken stream is opened again.
        after_sequence: events up to this one are known already.
        previews: whether to bring previews, too.
        on_wait: called with each break before the next try.
    """

    def __init__(
        self,
        transport: Transport,
        generation_id: str,
        *,
        backoff: Backoff,
        after_sequence: int = 0,
        previews: bool = False,
        on_wait: Callable[[VinfError], None] | None = None,
    ) -> None:
        self._transport = transport
        self._generation_id = generation_id
        self._sequence = after_sequence
        self._previews = previews
        self._backoff = backoff
        self._on_wait = on_wait
        self._closed = threading.Event()
        self._stream: Stream[service_pb.WatchGenerationResponse] | None = None

    def __iter__(self) -> Iterator[Update]:
        self._transport.connect()
        attempts = Attempts(self._backoff, sleep=self._closed.wait, on_failure=self._on_wait)
        while not self._closed.is_set():
            request = service_pb.WatchGenerationRequest(
                generation_id=self._generation_id, after_sequence=self._sequence, with_previews=self._previews
            )
            try:
                self._stream = self._transport.stream(self._transport.generations.WatchGeneration, request)
                for message in self._stream:
                    update = self._update(message)
                    attempts.progressed()
                    yield update
                    if update.generation.ended:
                        return
                raise TransportError("the stream of snapshots ended early", code="UNAVAILABLE")
            except (TransportError, ServerNotReadyError) as error:
                if self._closed.is_set():
                    return
                attempts.failed(error)
            finally:
                if self._stream is not None:
                    self._stream.cancel()

    def _update(self, message: service_pb.WatchGenerationResponse) -> Update:
        """Read a message; events that were told before the stream broke are left out."""
        events = tuple(_convert.event(event) for event in message.events if event.sequence > self._sequence)
        if events:
            self._sequence = events[-1].sequence
        previews = tuple(_convert.preview(preview) for preview in message.previews)
        return Update(_convert.generation(message.generation), events, previews)

    def close(self) -> None:
        """End the iteration soon."""
        self._closed.set()
        if self._stream is not None:
            self._stream.cancel()


class ProgressThread:
    """Calls back with the progress of a generation from a thread of its own, until closed."""

    def __init__(
        self, transport: Transport, generation_id: str, *, backoff: Backoff, callback: Callable[[Progress], None]
    ) -> None:
        self._watch = Watch(transport, generation_id, backoff=backoff)
        self._callback = callback
        self._thread = threading.Thread(target=self._run, name=f"vinf-progress-{generation_id}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop calling back; at most one call is still under way when this returns late."""
        self._watch.close()
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        # A stream may be opened between the flag and the cancel above: cancel until the thread has seen it.
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._watch.close()
            self._thread.join(0.05)

    def _run(self) -> None:
        try:
            for update in self._watch:
                self._callback(update.generation.progress)
        except VinfError as error:
            # Progress is a courtesy: the frames, or `wait`, report what is wrong with the generation.
            log.info("progress of the generation is no longer known: %s", error)
        except Exception:
            log.exception("on_progress failed and is not called again")
