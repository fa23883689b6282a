"""Snapshots of a generation as it changes."""

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
from vinf_client._types import Generation, Progress

if TYPE_CHECKING:
    from vinf_client._transport import Stream

log = logging.getLogger("vinf_client")

_CLOSE_TIMEOUT = 5.0  # seconds


class Watch:
    """Iterates over the snapshots of one generation until one is terminal, resuming broken streams.

    One thread iterates; any thread may `close`, which ends the iteration.
    """

    def __init__(self, transport: Transport, generation_id: str, *, backoff: Backoff) -> None:
        self._transport = transport
        self._request = service_pb.WatchGenerationRequest(generation_id=generation_id)
        self._backoff = backoff
        self._closed = threading.Event()
        self._stream: Stream[service_pb.WatchGenerationResponse] | None = None

    def __iter__(self) -> Iterator[Generation]:
        self._transport.connect()
        attempts = Attempts(self._backoff, sleep=self._closed.wait)
        while not self._closed.is_set():
            try:
                self._stream = self._transport.stream(self._transport.generations.WatchGeneration, self._request)
                for message in self._stream:
                    generation = _convert.generation(message.generation)
                    attempts.progressed()
                    yield generation
                    if generation.state.terminal:
                        return
                raise TransportError("the stream of snapshots ended early", code="UNAVAILABLE")
            except (TransportError, ServerNotReadyError) as error:
                if self._closed.is_set():
                    return
                attempts.failed(error)
            finally:
                if self._stream is not None:
                    self._stream.cancel()

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
            for generation in self._watch:
                self._callback(generation.progress)
        except VinfError as error:
            # Progress is a courtesy: the frames, or `wait`, report what is wrong with the generation.
            log.info("progress of the generation is no longer known: %s", error)
        except Exception:
            log.exception("on_progress failed and is not called again")
