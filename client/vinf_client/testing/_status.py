"""Refusals in the form of the contract: a status with a google.rpc.ErrorInfo and what belongs to it."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2


def refuse(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    reason: str,
    message: str,
    *,
    metadata: Mapping[str, str] | None = None,
    violations: Sequence[tuple[str, str]] = (),
    retry_after: float | None = None,
) -> NoReturn:
    """End the call."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain="vinf", metadata=metadata or {})]
    if violations:
        entries = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=entries))
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)
    raise AssertionError("abort raises")
