"""Frames for a loop of one's own, such as a game's or a player's: pulled by a thread, taken without waiting."""

import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

from vinf_client._buffer import FrameBuffer, no_frame_within
from vinf_client._errors import VinfError
from vinf_client._frame import Frame
from vinf_client._frames import PullReader
from vinf_client._stats import PullerStats
from vinf_client._transport import Transport
from vinf_client._wanted import Wanted

_JOIN_TIMEOUT = 5.0  # seconds


class FramePuller:
    """Pulls the frames of a generation; use it in a `with` statement, or `close` it. Thread-safe.

    >>> from vinf_client import Client
    >>> from vinf_client.testing import FakeServer
    >>> with FakeServer() as server, Client(server.address) as client:
    ...     with client.submit("a red ball", frames=24).pull(latency="low") as puller:
    ...         newest = puller.next(timeout=10)
    ...         newest.index, puller.latest() is newest
    (23, True)
    """

    def __init__(self, transport: Transport, wanted: Wanted, *, capacity: int) -> None:
        self._pump = _Pump(transport, wanted, FrameBuffer(capacity, only_latest=wanted.latest, start=wanted.start))
        self._finalizer = weakref.finalize(self, self._pump.stop)
        self._pump.thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield `next` until the video is over."""
        while (frame := self.next()) is not None:
            yield frame

    @property
    def ended(self) -> bool:
        """Whether every frame was taken and no more will come."""
        with self._pump.changed:
            return self._pump.buffer.ended

    @property
    def stats(self) -> PullerStats:
        """What it did so far: frames received, taken, dropped and skipped, bytes, reconnects, waits."""
        with self._pump.changed:
            return self._pump.buffer.stats

    def latest(self) -> Frame | None:
        """Return the newest frame that has arrived, the same one again where none is newer, None before the first.

        It never waits. Frames that arrived before it are dropped.

        Raises:
            GenerationFailedError, GenerationCancelledError, TransportError: no further frame will come.
        """
        with self._pump.changed:
            frame = self._pump.buffer.latest()
            self._pump.changed.notify_all()
            return frame

    def next(self, timeout: float | None = None) -> Frame | None:
        """Wait for the frame after the one that was taken last, and return it; None when the video is over.

        Raises:
            RpcTimeoutError: it did not come within `timeout` seconds.
            GenerationFailedError, GenerationCancelledError, TransportError: no further frame will come.
        """
        pump = self._pump
        with pump.changed:
            if not pump.buffer.is_due:
                began = time.monotonic()
                came = pump.changed.wait_for(lambda: pump.buffer.is_due, timeout)
                pump.buffer.waited(time.monotonic() - began)
                if not came:
                    raise no_frame_within(timeout)
            frame = pump.buffer.take()
            pump.changed.notify_all()
            return frame

    def close(self) -> None:
        """Stop pulling; frames that are ready can still be taken. The generation goes on. A no-op the second time."""
        self._finalizer()
        self._pump.thread.join(_JOIN_TIMEOUT)


class _Pump:
    """What the thread needs: not the puller, which would then never be collected."""

    def __init__(self, transport: Transport, wanted: Wanted, buffer: FrameBuffer) -> None:
        self.buffer = buffer
        self._on_wait = wanted.on_wait
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name="vinf-pull", daemon=True)
        self._reader = PullReader(transport, replace(wanted, on_wait=self._waiting))
        self._stopped = False

    def stop(self) -> None:
        """Have the thread end soon."""
        with self.changed:
            self._stopped = True
            self.changed.notify_all()
        self._reader.cancel()

    def _waiting(self, reason: VinfError) -> None:
        with self.changed:
            self.buffer.reconnected()
        if self._on_wait is not None:
            self._on_wait(reason)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for frame in self._reader:
                with self.changed:
                    self.changed.wait_for(lambda: self.buffer.has_room or self._stopped)
                    if self._stopped:
                        break
                    self.buffer.put(frame)
                    self.changed.notify_all()
        except BaseException as found:  # who takes the frames raises it
            error = found
        with self.changed:
            self.buffer.finish(error)
            self.changed.notify_all()
