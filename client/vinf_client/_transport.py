"""One channel to one server: deadlines, pauses, silence, and the place where gRPC's errors end."""

import threading
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from vinf.v1.server_info_service_pb2_grpc import ServerInfoServiceStub
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client._access import Access
from vinf_client._channel import call_metadata, channel_options, check_target, trace_metadata
from vinf_client._config import DEFAULT_SERVER as DEFAULT_SERVER  # whom the command asks by default
from vinf_client._errors import ClientClosedError, InvalidRequestError, TransportError
from vinf_client._flows import Call, Connect, Effect, Flow, Gather, Pause, Work, first_contact
from vinf_client._reading import stalled
from vinf_client._stall import Silence, StallWatch
from vinf_client._translate import translated

if TYPE_CHECKING:
    from grpc import _CallIterator

_OPEN_ACCESS = Access()

Response = TypeVar("Response")
Result = TypeVar("Result")


class Stream(Generic[Response]):
    """A server stream whose failures are this package's errors.

    Iterating raises `StallError` when nothing comes for `stall_timeout` seconds; time that the reader spends elsewhere
    does not count.
    """

    def __init__(
        self, call: "_CallIterator[Response]", transport: "Transport", *, stall_timeout: float | None = None
    ) -> None:
        self._call = call
        self._transport = transport
        self._silence = Silence(stall_timeout, call.cancel) if stall_timeout is not None else None
        self.brought_any = False

    def __iter__(self) -> Iterator[Response]:
        silence = self._silence
        try:
            with self._transport.guarded():
                if silence is None:
                    yield from self._call
                else:
                    yield from self._watched(silence)
        except TransportError as error:
            if silence is not None and silence.broken:
                raise stalled(silence.timeout) from error
            raise

    def _watched(self, silence: Silence) -> Iterator[Response]:
        watch = self._transport.stall_watch
        silence.begin()
        watch.add(silence)
        try:
            for message in self._call:
                silence.over()
                self.brought_any = True
                yield message
                silence.begin()
        finally:
            watch.remove(silence)

    def cancel(self) -> None:
        """End the stream; a no-op when it has ended. Any thread may call it."""
        self._call.cancel()


class CancellableCall:
    """Calls of one method, one at a time, that another thread may cut short."""

    def __init__(self, transport: "Transport", method: str) -> None:
        self._transport = transport
        self._method = method
        self._future: grpc.Future | None = None  # type: ignore[type-arg]
        self._cancelled = False

    def __call__(self, request: Message, timeout: float) -> Any:
        """Make the call.

        Raises:
            TransportError: also with the code CANCELLED, after `cancel`.
        """
        with self._transport.guarded():
            self._future = future = self._transport.begin(self._method, request, timeout)
            if self._cancelled:
                future.cancel()
            try:
                return future.result()
            except grpc.FutureCancelledError as error:
                raise TransportError("the call was cancelled", code="CANCELLED") from error

    def cancel(self) -> None:
        """End the call under way, and those that come."""
        self._cancelled = True
        if self._future is not None:
            self._future.cancel()


class Transport:
    """Calls to one server. Thread-safe, as gRPC channels are.

    Args:
        server: "host:port", or a gRPC target such as "unix:/run/vinf.sock".
        connect_timeout: seconds until a silent server counts as unreachable.
        rpc_timeout: seconds a unary call may take.
        access: token and certificates, complete.

    Raises:
        InvalidRequestError: the address or the access cannot work, or a token would travel unprotected.
    """

    def __init__(
        self, server: str, *, connect_timeout: float, rpc_timeout: float, access: Access = _OPEN_ACCESS
    ) -> None:
        self.server = check_target(server, access.sources.get("server", ""))
        self.rpc_timeout = rpc_timeout
        self.stall_watch = StallWatch()
        self._connect_timeout = connect_timeout
        self._connected = False
        self._closed = threading.Event()
        self._wakers: weakref.WeakSet[threading.Event] = weakref.WeakSet()
        access.check(self.server)
        self._channel = access.channel(self.server, channel_options(self.server))
        self._generations = VideoGenerationServiceStub(self._channel)
        self._server_info = ServerInfoServiceStub(self._channel)
        self._own_metadata = call_metadata(access)

    def close(self) -> None:
        """Close the channel; calls and pauses under way, of any thread, end with `ClientClosedError`."""
        self._closed.set()
        for waker in list(self._wakers):
            waker.set()
        self._channel.close()

    def waker(self) -> threading.Event:
        """Return an event that ends the pauses made with it; `close` sets it."""
        waker = threading.Event()
        self._wakers.add(waker)
        if self._closed.is_set():
            waker.set()
        return waker

    def pause(self, seconds: float, waker: threading.Event | None = None) -> None:
        """Sleep before another try, not beyond the moment when `waker` is set.

        Raises:
            ClientClosedError: the transport is closed.
        """
        (waker or self._closed).wait(seconds)
        if self._closed.is_set():
            raise ClientClosedError("the client was closed")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Raise gRPC's failures in the body as this package's errors."""
        self.pause(0)
        try:
            with translated(self.server):
                yield
        except (TransportError, ValueError) as error:  # gRPC raises a ValueError for a call on a closed channel
            if self._closed.is_set() and not isinstance(error, InvalidRequestError):
                raise ClientClosedError("the client was closed") from error
            raise

    def connect(self) -> None:
        """Return once the server was reached for the first time; later breaks are for the retries of each call.

        Raises:
            TransportError: nobody listens there, or nobody answered in time.
        """
        if not self._connected:
            self.run(first_contact(self.server, self._connect_timeout))
            self._connected = True

    def run(self, flow: Flow[Result]) -> Result:
        """Do what a flow asks for, until it returns."""
        return _drive(flow, self)

    def do(self, effect: Effect) -> Any:
        """Do one thing that a flow asks for."""
        match effect:
            case Connect():
                self.connect()
            case Pause(seconds):
                self.pause(seconds)
            case Work(work):
                return work()
            case Call(method, request, timeout):
                with self.guarded():
                    return self._rpc(method)(request, timeout=timeout or self.rpc_timeout, metadata=self._metadata())
            case Gather(method, request):
                with self.guarded():
                    return list(self._rpc(method)(request, timeout=self.rpc_timeout, metadata=self._metadata()))
        return None

    def begin(self, method: str, request: Message, timeout: float) -> "grpc.Future[Any]":
        """Begin a unary call; its errors are gRPC's."""
        future: grpc.Future[Any] = self._rpc(method).future(request, timeout=timeout, metadata=self._metadata())
        return future

    def stream(self, method: str, request: Message, *, stall_timeout: float | None = None) -> Stream[Any]:
        """Open a server stream; it has no deadline, `Stream.cancel` ends it."""
        with self.guarded():
            return Stream(self._rpc(method)(request, metadata=self._metadata()), self, stall_timeout=stall_timeout)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (*self._own_metadata, *trace_metadata())

    def _rpc(self, method: str) -> Any:
        return getattr(self._generations, method, None) or getattr(self._server_info, method)


def _drive(flow: Generator[Effect, Any, Result], transport: Transport) -> Result:
    try:
        effect = next(flow)
        while True:
            try:
                result = transport.do(effect)
            except Exception as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as done:
        found: Result = done.value
        return found
    finally:
        flow.close()
