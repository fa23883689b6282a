"""gRPC failures, turned into the errors of this package at one boundary by one table."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import grpc
from google.rpc import error_details_pb2, status_pb2

from vinf_client._errors import (
    AuthenticationError,
    ClientLimitError,
    DiskFullError,
    FrameDamagedError,
    FrameEvictedError,
    GenerationCancelledError,
    GenerationFailedError,
    GenerationNotFoundError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
    ProtocolError,
    QueueFullError,
    RequestIdReusedError,
    RpcTimeoutError,
    ServerDrainingError,
    ServerError,
    ServerNotReadyError,
    TransportError,
    VinfError,
    Violation,
    WrongStateError,
)
from vinf_client._types import Failure, GenerationState

# The reason decides; RESOURCE_EXHAUSTED alone has at least five meanings on one channel.
BY_REASON: dict[str, type[VinfError]] = {
    "INVALID_FIELD": InvalidRequestError,
    "MALFORMED_REQUEST": InvalidRequestError,
    "SPEC_TOO_LARGE": InvalidRequestError,
    "REQUEST_ID_REUSED": RequestIdReusedError,
    "MODEL_NOT_FOUND": ModelNotFoundError,
    "GENERATION_NOT_FOUND": GenerationNotFoundError,
    "WRONG_STATE": WrongStateError,
    "FRAME_DAMAGED": FrameDamagedError,
    "FRAME_EVICTED": FrameEvictedError,
    "TOKEN_MISSING": AuthenticationError,
    "TOKEN_INVALID": AuthenticationError,
    "TOKEN_EXPIRED": AuthenticationError,
    "CERTIFICATE_INVALID": AuthenticationError,
    "QUEUE_FULL": QueueFullError,
    "CLIENT_LIMIT": ClientLimitError,
    "DISK_FULL": DiskFullError,
    "WORKERS_NOT_READY": ServerNotReadyError,
    "SERVER_DRAINING": ServerDrainingError,
}

# Without a reason we know, the code decides: answers of proxies, of gRPC itself, of servers newer than this client.
BY_CODE: dict[grpc.StatusCode, type[VinfError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.UNAVAILABLE: TransportError,
    grpc.StatusCode.CANCELLED: TransportError,
    grpc.StatusCode.DEADLINE_EXCEEDED: RpcTimeoutError,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolError,
}

_WHAT_TO_DO = {
    "TOKEN_MISSING": "give yours with Client(token=...), --token-file or $VINF_TOKEN",
    "TOKEN_INVALID": "check that it is the one for this server, whose operator can make another (vinf token)",
    "TOKEN_EXPIRED": "ask the server's operator for a new one (vinf token)",
    "CERTIFICATE_INVALID": "use one with an alternative name or a common name",
}

_WITH_STATUS = (grpc.Call, grpc.aio.AioRpcError)
NOT_GRPC = "what listens there does not speak gRPC; is it the port of a web page, or of metrics?"
"""The cause of a `TransportError` at a port of something else."""

_DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "vinf"
_LONGEST_MESSAGE = 2000


@contextmanager
def translated(server: str) -> Iterator[None]:
    """Raise any gRPC failure of the body as this package's error, the original chained."""
    try:
        yield
    except grpc.RpcError as error:
        raise translate(error, server) from error


def translate(error: grpc.RpcError, server: str) -> VinfError:
    """Find the most specific error for a failed call to `server`."""
    code = error.code() if isinstance(error, _WITH_STATUS) else grpc.StatusCode.UNKNOWN
    text = _plain(error.details() if isinstance(error, _WITH_STATUS) else str(error))
    info, bad_request, retry_after = _details(error)
    kind = BY_REASON.get(info.reason) or BY_CODE.get(code, ServerError)
    known = {
        "code": code.name,
        "reason": info.reason,
        "metadata": dict(info.metadata),
        "retry_after": retry_after,
    }
    if issubclass(kind, InvalidRequestError):
        violations = [Violation(entry.field, _plain(entry.description)) for entry in bad_request.field_violations]
        if violations:
            text = "; ".join(str(violation) for violation in violations)
        return kind(text or "the server refused the request", violations=violations, **known)
    if kind is RpcTimeoutError:
        return kind(f"the vinf server at {server} did not answer in time", **known)
    if kind is TransportError:
        return kind(f"cannot reach a vinf server at {server}: {_cause(text)}", **known)
    if kind is AuthenticationError:
        advice = _WHAT_TO_DO.get(info.reason, "check the token and the certificate")
        return kind(f"the vinf server at {server} refused the call: {text}; {advice}", **known)
    if kind is ProtocolError:
        return kind(f"the server at {server} is no vinf server, or one of another version: {text}", **known)
    return kind(text or f"the vinf server at {server} answered {code.name}", **known)


def failure_error(failure: Failure | None, state: GenerationState, generation_id: str) -> VinfError:
    """Build the error of a generation that ended without success."""
    cancelled = state is GenerationState.CANCELLED
    kind = GenerationCancelledError if cancelled else GenerationFailedError
    message = failure.message if failure is not None else ""
    return kind(
        message or f"generation {generation_id} {'was cancelled' if cancelled else 'failed'}",
        generation_id=generation_id,
        code=failure.code if failure is not None else "",
        reason=failure.reason if failure is not None else "",
        metadata=failure.metadata if failure is not None else None,
    )


def code_name(number: int) -> str:
    """Name a google.rpc.Code number."""
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), str(number))


def _details(
    error: grpc.RpcError,
) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, float | None]:
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry_after: float | None = None
    for item in _status(error).details:
        retry = error_details_pb2.RetryInfo()
        # Is() guards Unpack, which raises on a payload that does not parse.
        if item.Is(info.DESCRIPTOR):
            found = error_details_pb2.ErrorInfo()
            item.Unpack(found)
            if found.domain == _DOMAIN:
                info = found
        elif item.Is(bad_request.DESCRIPTOR):
            item.Unpack(bad_request)
        elif item.Is(retry.DESCRIPTOR):
            item.Unpack(retry)
            retry_after = max(0.0, retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    return info, bad_request, retry_after


def _status(error: grpc.RpcError) -> status_pb2.Status:
    trailers: Iterable[tuple[str, str | bytes]] | None = None
    if isinstance(error, _WITH_STATUS):
        trailers = error.trailing_metadata()
    for key, value in trailers or ():
        if key == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode("latin-1"))
            except Exception:  # a proxy's garbage must not hide the failure it came with
                break
    return status_pb2.Status()


def _plain(text: str | None) -> str:
    """Keep a message on one line and at a readable length."""
    line = " ".join((text or "").split())
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 1] + "…"


def _cause(text: str) -> str:
    for sign, cause in (
        ("Connection refused", "connection refused"),
        ("Failed parsing HTTP/2", NOT_GRPC),
        ("http1.x server", NOT_GRPC),
        ("DNS resolution failed", "the host name is not known"),
        ("Domain name not found", "the host name is not known"),
        ("No route to host", "no route to the host"),
        ("Network is unreachable", "the network is unreachable"),
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted, has expired, or is for another name"),
        ("WRONG_VERSION_NUMBER", "it does not speak TLS"),
        ("Socket closed", "the connection broke"),
        ("Connection reset", "the connection broke"),
        ("keepalive watchdog", "it stopped answering"),
        ("ping timeout", "it stopped answering"),
    ):
        if sign.lower() in text.lower():
            return cause
    return text or "no answer"
