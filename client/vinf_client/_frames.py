"""Frames of a generation, whole and in order, however often the connection that brings them breaks.

What is asked for and what the answers mean is `_reading`'s business; here is the waiting, and the thread that reads
ahead.
"""

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any, Protocol

from vinf_client._errors import FrameEvictedError, ServerNotReadyError, TransportError, naming
from vinf_client._frame import Frame
from vinf_client._reading import PullCursor, StreamCursor
from vinf_client._transport import CancellableCall, Stream, Transport
from vinf_client._wanted import Wanted

MENDABLE = (TransportError, ServerNotReadyError, FrameEvictedError)
"""What a cursor may know an answer to."""

_JOIN_TIMEOUT = 5.0  # seconds
_GRACE = 5.0  # seconds beyond a pull's wait until its answer counts as lost, where silence is not limited


class Reader(Protocol):
    """Reads frames. One thread iterates; any thread may cancel, which ends the iteration."""

    def __iter__(self) -> Iterator[Frame]: ...

    def cancel(self) -> None: ...


class StreamReader:
    """Reads by a stream, and opens it again when it breaks."""

    def __init__(self, transport: Transport, wanted: Wanted) -> None:
        self._request_id = wanted.request_id
        self._transport = transport
        self._cursor = StreamCursor(wanted)
        self._stall_timeout = wanted.stall_timeout
        self._stream: Stream[Any] | None = None
        self._stopped = transport.waker()

    def __iter__(self) -> Iterator[Frame]:
        with naming(self._request_id):
            yield from self._read()

    def _read(self) -> Iterator[Frame]:
        transport, cursor = self._transport, self._cursor
        transport.connect()
        while not cursor.ended:
            if self._stopped.is_set():
                transport.pause(0)
                return
            stream = transport.stream("StreamFrames", cursor.request(), stall_timeout=self._stall_timeout)
            self._stream = stream
            if self._stopped.is_set():  # set while the stream was opened
                stream.cancel()
            try:
                for message in stream:
                    frame = cursor.take(message)
                    if frame is not None:
                        yield frame
                    if cursor.ended:
                        return
                raise cursor.broke_off()
            except MENDABLE as error:
                if self._stopped.is_set():
                    transport.pause(0)  # raises where it was the client that was closed
                    return
                delay = cursor.failed(error)
            finally:
                stream.cancel()
            transport.pause(delay, self._stopped)

    def cancel(self) -> None:
        """End the iteration soon."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.cancel()


class PullReader:
    """Reads by pulls, each made when its frames are asked for."""

    def __init__(self, transport: Transport, wanted: Wanted) -> None:
        self._transport = transport
        self._cursor = PullCursor(wanted)
        self._call = CancellableCall(transport, "PullFrames")
        self._stopped = transport.waker()
        self._timeout = pull_timeout(wanted, self._cursor)
        self._request_id = wanted.request_id

    def __iter__(self) -> Iterator[Frame]:
        with naming(self._request_id):
            yield from self._read()

    def _read(self) -> Iterator[Frame]:
        self._transport.connect()
        due: deque[Frame] = deque()
        while not self._cursor.ended:
            due.extend(self._pull())
            if self._stopped.is_set():
                self._transport.pause(0)
                return
            while due:
                yield due.popleft()
        self._cursor.finish()

    def cancel(self) -> None:
        """End the iteration soon."""
        self._stopped.set()
        self._call.cancel()

    def _pull(self) -> list[Frame]:
        """Make one pull; none where it broke, or was cancelled."""
        try:
            return self._cursor.take(self._call(self._cursor.request(), self._timeout))
        except MENDABLE as error:
            if self._stopped.is_set():
                return []
            delay = self._cursor.failed(error)
        self._transport.pause(delay, self._stopped)
        return []


def pull_timeout(wanted: Wanted, cursor: PullCursor) -> float:
    """Return the seconds after which the answer to a pull counts as lost."""
    return cursor.wait + _GRACE if wanted.stall_timeout is None else wanted.stall_timeout


def read_frames(transport: Transport, wanted: Wanted, *, prefetch: int = 0) -> Generator[Frame, None, None]:
    """Yield the frames that are wanted, resuming what breaks; up to `prefetch` of them are read ahead in a thread.

    Closing the generator closes the stream and leaves the generation alone.

    Raises:
        GenerationFailedError, GenerationCancelledError: there will be no further frame.
        TransportError: it broke more often in a row than `Wanted.backoff` allows.
        InvalidRequestError: `Wanted.output` is no format; at once.
    """
    if wanted.latest:
        return _plain(PullReader(transport, wanted))  # a frame that was read ahead would be an old one
    reader = StreamReader(transport, wanted)
    return _ahead(reader, prefetch) if prefetch > 0 else _plain(reader)


def _plain(reader: Reader) -> Generator[Frame, None, None]:
    yield from reader


def _ahead(reader: Reader, depth: int) -> Generator[Frame, None, None]:
    """Read in a thread; it stops when `depth` frames lie ready."""
    ready: queue.Queue[Frame | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(reader, ready, stopped), name="vinf-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        reader.cancel()
        while not ready.empty():  # the thread may wait for room
            ready.get_nowait()
        thread.join(_JOIN_TIMEOUT)


def _fill(reader: Reader, ready: "queue.Queue[Frame | BaseException | None]", stopped: threading.Event) -> None:
    try:
        for frame in reader:
            ready.put(frame)
            if stopped.is_set():
                return
        ready.put(None)
    except BaseException as error:  # the consumer raises it
        ready.put(error)
