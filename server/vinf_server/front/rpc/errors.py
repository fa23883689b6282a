"""What each exception becomes on the wire: one table, and google.rpc details that fit a gRPC trailer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from urllib.parse import quote

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from vinf_server.front import errors

DOMAIN = "vinf"

MAX_DETAILS_BYTES = 4096
"""A client refuses all trailers beyond 8 KiB, and the message travels in them a second time."""

MAX_VIOLATIONS = 20

_MAX_ENCODED_MESSAGE_BYTES = 1200
"""After percent-encoding, which makes three bytes of every one that is not ASCII."""

_STATUS_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"


@dataclass(frozen=True, slots=True)
class Row:
    """Status, reason word, and when to try again (0 = not by itself)."""

    code: grpc.StatusCode
    reason: str
    retry_s: float = 0.0
    resource: str = ""


TABLE: dict[type[errors.VinfError], Row] = {
    errors.InvalidFieldsError: Row(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    errors.SpecTooLargeError: Row(grpc.StatusCode.INVALID_ARGUMENT, "SPEC_TOO_LARGE"),
    errors.MalformedRequestError: Row(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"),
    errors.ModelNotFoundError: Row(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", resource="model"),
    errors.GenerationNotFoundError: Row(grpc.StatusCode.NOT_FOUND, "GENERATION_NOT_FOUND", resource="generationId"),
    errors.RequestIdReusedError: Row(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", resource="requestId"),
    errors.FrameEvictedError: Row(grpc.StatusCode.OUT_OF_RANGE, "FRAME_EVICTED"),
    errors.FrameDamagedError: Row(grpc.StatusCode.DATA_LOSS, "FRAME_DAMAGED"),
    errors.WrongStateError: Row(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE"),
    errors.QueueFullError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    errors.ClientLimitError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT_LIMIT"),
    errors.DiskFullError: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL"),
    errors.UnauthenticatedError: Row(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
    errors.WorkersNotReadyError: Row(grpc.StatusCode.UNAVAILABLE, "WORKERS_NOT_READY", retry_s=2.0),
    errors.ServerDrainingError: Row(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", retry_s=5.0),
}

_BUG = Row(grpc.StatusCode.INTERNAL, "INTERNAL")


@dataclass(frozen=True, slots=True)
class WireError:
    """What `ServicerContext.abort` takes."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...] = field(default=())


def to_wire(error: Exception) -> WireError:
    """Translate an exception; one that is not in the table is a bug, and a client learns nothing about it."""
    if not isinstance(error, errors.VinfError):
        error = errors.VinfError("an internal error of the server; its log says more")
    row = TABLE.get(type(error), _BUG)
    if isinstance(error, errors.RetryLaterError):
        row = replace(row, retry_s=error.retry_s)
    elif isinstance(error, errors.UnauthenticatedError):
        row = replace(row, reason=error.reason)
    message = _shorten(error.message)
    violations = list(error.violations[:MAX_VIOLATIONS]) if isinstance(error, errors.InvalidFieldsError) else []
    is_truncated = isinstance(error, errors.InvalidFieldsError) and len(violations) < len(error.violations)
    while True:
        status = _status(row, message, error, violations, is_truncated=is_truncated)
        packed = status.SerializeToString()
        if len(packed) <= MAX_DETAILS_BYTES or not violations:
            trailers: list[tuple[str, str | bytes]] = [(_STATUS_DETAILS_KEY, packed)]
            if isinstance(error, errors.RetryLaterError):
                # What gRPC's own retries go by, where a client's service config lets them.
                trailers.append((_PUSHBACK_KEY, str(round(row.retry_s * 1000))))
            return WireError(row.code, message, tuple(trailers))
        violations.pop()
        is_truncated = True


def _status(
    row: Row, message: str, error: errors.VinfError, violations: list[errors.Violation], *, is_truncated: bool
) -> status_pb2.Status:
    metadata = dict(error.metadata) | ({"truncated": "true"} if is_truncated else {})
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN, metadata=metadata)]
    if violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=item.field, description=item.description)
                    for item in violations
                ]
            )
        )
    if row.retry_s:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(row.retry_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if row.resource:
        details.append(
            error_details_pb2.ResourceInfo(resource_type=row.resource, resource_name=error.metadata[row.resource])
        )
    status = status_pb2.Status(code=row.code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _shorten(message: str) -> str:
    """Cut a message so that it fits its trailer whatever alphabet it is in."""
    if len(quote(message)) <= _MAX_ENCODED_MESSAGE_BYTES:
        return message
    budget, kept = _MAX_ENCODED_MESSAGE_BYTES - len(quote("…")), 0
    for character in message:
        budget -= len(quote(character))
        if budget < 0:
            break
        kept += 1
    return message[:kept] + "…"
