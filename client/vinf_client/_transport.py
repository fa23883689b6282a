"""One channel to one server: options, deadlines, retries, and the place where gRPC's errors end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc

from vinf.v1 import server_info_service_pb2 as info_pb
from vinf.v1.server_info_service_pb2_grpc import ServerInfoServiceStub
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client._access import Access, is_loopback
from vinf_client._errors import ClientClosedError, InvalidRequestError, RpcTimeoutError, TransportError, Violation
from vinf_client._retry import Attempts, Backoff
from vinf_client._translate import translated

if TYPE_CHECKING:
    from grpc import _CallIterator

DEFAULT_SERVER = "127.0.0.1:50051"

_RECEIVE_LIMIT = 64 * 1024 * 1024
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _RECEIVE_LIMIT),
    # A hung machine is noticed even while no frame is due; servers send at least a keepalive every 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's own pause between connection attempts grows to two minutes; a restarted server is back sooner.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

_OPEN_ACCESS = Access()

Request = TypeVar("Request")
Response = TypeVar("Response")


class Stream(Generic[Response]):
    """A server stream whose failures are this package's errors."""

    def __init__(self, call: "_CallIterator[Response]", transport: "Transport") -> None:
        self._call = call
        self._transport = transport

    def __iter__(self) -> Iterator[Response]:
        with self._transport.guarded():
            yield from self._call

    def cancel(self) -> None:
        """End the stream; a no-op when it has ended. Any thread may call it."""
        self._call.cancel()


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
        self.server = _target(server)
        self._connect_timeout = connect_timeout
        self._rpc_timeout = rpc_timeout
        self._connected = False
        self._closed = threading.Event()
        options = list(_OPTIONS)
        if is_loopback(self.server):
            options.append(("grpc.enable_http_proxy", 0))  # a proxy could not reach them
        access.check(self.server)
        self._channel = access.channel(self.server, options)
        self.generations = VideoGenerationServiceStub(self._channel)
        self.server_info = ServerInfoServiceStub(self._channel)
        self._metadata = (("x-vinf-client", f"python/{_version()}"), *access.metadata)

    def close(self) -> None:
        """Close the channel; calls and pauses under way, of any thread, end with `ClientClosedError`."""
        self._closed.set()
        self._channel.close()

    def pause(self, seconds: float) -> None:
        """Sleep before another try; `close` wakes it.

        Raises:
            ClientClosedError: the transport is closed.
        """
        if self._closed.wait(seconds):
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
        if self._connected:
            return
        try:
            with self.guarded():
                self.server_info.GetServerInfo(
                    info_pb.GetServerInfoRequest(), timeout=self._connect_timeout, metadata=self._metadata
                )
        except RpcTimeoutError as error:
            # Not the timeout of a call that arrived: most likely a host that drops packets.
            raise TransportError(
                f"cannot reach a vinf server at {self.server}: no answer within {self._connect_timeout:g} s",
                code="UNAVAILABLE",
            ) from error
        self._connected = True

    def unary(
        self,
        rpc: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout: float | None = None,
    ) -> Response:
        """Make one call; a broken connection is tried again (every call is idempotent)."""
        self.connect()
        attempts = Attempts(Backoff(attempts=5), sleep=self.pause)
        while True:
            try:
                with self.guarded():
                    return rpc(request, timeout=timeout or self._rpc_timeout, metadata=self._metadata)
            except TransportError as error:
                attempts.failed(error)

    def stream(self, rpc: "grpc.UnaryStreamMultiCallable[Request, Response]", request: Request) -> Stream[Response]:
        """Open a server stream; it has no deadline, `Stream.cancel` ends it."""
        with self.guarded():
            return Stream(rpc(request, metadata=self._metadata), self)


def _target(server: str) -> str:
    """Check an address here: gRPC would take any text and fail later with words about name resolution."""
    text = server.strip()
    if text.startswith(("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:")):
        return text
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535) or "/" in text:
        raise InvalidRequestError.of(
            [
                Violation(
                    "server",
                    f"must be HOST:PORT with a port in [1, 65535], for example {DEFAULT_SERVER}; got {server!r}",
                )
            ]
        )
    return text


def _version() -> str:
    try:
        return version("vinf")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
