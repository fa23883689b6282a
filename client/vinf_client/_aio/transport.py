"""One asynchronous channel to one server. It belongs to the event loop that makes its first call."""

import asyncio
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from vinf.v1.server_info_service_pb2_grpc import ServerInfoServiceStub
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client._access import Access
from vinf_client._channel import call_metadata, channel_options, check_target, trace_metadata
from vinf_client._errors import ClientClosedError, TransportError
from vinf_client._flows import Call, Connect, Effect, Flow, Gather, Pause, Work, first_contact
from vinf_client._reading import stalled
from vinf_client._translate import translated

_OPEN_ACCESS = Access()

Response = TypeVar("Response")
Result = TypeVar("Result")


class AsyncStream(Generic[Response]):
    """A server stream whose failures are this package's errors, and which ends when nobody holds it any more."""

    def __init__(self, call: Any, transport: "AsyncTransport", *, stall_timeout: float | None = None) -> None:
        self._call = call
        self._transport = transport
        self._stall_timeout = stall_timeout
        # gRPC never ends a stream that was abandoned; the finaliser may run in any thread.
        self._finalizer = weakref.finalize(self, _cancel_soon, asyncio.get_running_loop(), call)
        self._finalizer.atexit = False

    async def read(self) -> Response | None:
        """Return the next message; None at the end.

        Raises:
            StallError: nothing came for `stall_timeout` seconds.
        """
        try:
            with self._transport.guarded():
                async with asyncio.timeout(self._stall_timeout):
                    message = await self._call.read()
        except TimeoutError as error:
            self.cancel()
            raise stalled(self._stall_timeout) from error
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        """End the stream; a no-op when it has ended."""
        self._finalizer.detach()
        self._call.cancel()


class AsyncTransport:
    """Calls to one server, from one event loop. Arguments and errors are those of `_transport.Transport`."""

    def __init__(
        self, server: str, *, connect_timeout: float, rpc_timeout: float, access: Access = _OPEN_ACCESS
    ) -> None:
        self.server = check_target(server, access.sources.get("server", ""))
        self.rpc_timeout = rpc_timeout
        self._connect_timeout = connect_timeout
        self._connected = False
        self._closed = asyncio.Event()
        access.check(self.server)
        self._credentials, self._options = access.credentials(), channel_options(self.server)
        self._own_metadata = call_metadata(access)
        self._channel: grpc.aio.Channel | None = None
        self._stubs: tuple[Any, ...] = ()

    async def close(self) -> None:
        """Close the channel; calls, streams and pauses under way end with `ClientClosedError`."""
        self._closed.set()
        if self._channel is not None:
            await self._channel.close()

    async def pause(self, seconds: float) -> None:
        """Sleep before another try; `close` wakes it.

        Raises:
            ClientClosedError: the transport is closed.
        """
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._closed.wait()
            except TimeoutError:
                pass
        self.check_open()

    def check_open(self) -> None:
        """Return unless the transport is closed.

        Raises:
            ClientClosedError: it is.
        """
        if self._closed.is_set():
            raise ClientClosedError("the client was closed")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Raise gRPC's failures in the body as this package's errors."""
        self.check_open()
        try:
            with translated(self.server):
                yield
        except (TransportError, grpc.aio.UsageError) as error:
            if self._closed.is_set():
                raise ClientClosedError("the client was closed") from error
            raise
        except asyncio.CancelledError as error:
            # A closed channel cancels its calls; that must not look as if somebody had cancelled our task.
            task = asyncio.current_task()
            if self._closed.is_set() and task is not None and not task.cancelling():
                raise ClientClosedError("the client was closed") from error
            raise

    async def connect(self) -> None:
        """Return once the server was reached for the first time; later breaks are for the retries of each call.

        Raises:
            TransportError: nobody listens there, or nobody answered in time.
        """
        if not self._connected:
            await self.run(first_contact(self.server, self._connect_timeout))
            self._connected = True

    async def run(self, flow: Flow[Result]) -> Result:
        """Do what a flow asks for, until it returns."""
        try:
            effect = next(flow)
            while True:
                try:
                    result = await self._do(effect)
                except Exception as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as done:
            found: Result = done.value
            return found
        finally:
            flow.close()

    async def call(self, method: str, request: Message, timeout: float) -> Any:
        """Make a unary call."""
        with self.guarded():
            return await self._rpc(method)(request, timeout=timeout, metadata=self._metadata())

    def stream(self, method: str, request: Message, *, stall_timeout: float | None = None) -> AsyncStream[Any]:
        """Open a server stream; it has no deadline, `AsyncStream.cancel` ends it."""
        with self.guarded():
            call = self._rpc(method)(request, metadata=self._metadata())
            return AsyncStream(call, self, stall_timeout=stall_timeout)

    async def _do(self, effect: Effect) -> Any:
        match effect:
            case Connect():
                await self.connect()
            case Pause(seconds):
                await self.pause(seconds)
            case Work(work):
                return await asyncio.to_thread(work)
            case Call(method, request, timeout):
                return await self.call(method, request, timeout or self.rpc_timeout)
            case Gather(method, request):
                with self.guarded():
                    stream = self._rpc(method)(request, timeout=self.rpc_timeout, metadata=self._metadata())
                    return [message async for message in stream]
        return None

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (*self._own_metadata, *trace_metadata())

    def _rpc(self, method: str) -> Any:
        if self._channel is None:  # made late: it belongs to the loop that runs now
            self._channel = (
                grpc.aio.insecure_channel(self.server, options=self._options)
                if self._credentials is None
                else grpc.aio.secure_channel(self.server, self._credentials, options=self._options)
            )
            self._stubs = (VideoGenerationServiceStub(self._channel), ServerInfoServiceStub(self._channel))
        return next(getattr(stub, method) for stub in self._stubs if hasattr(stub, method))


def _cancel_soon(loop: asyncio.AbstractEventLoop, call: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call.cancel)
