"""What goes wrong, as JSON with an HTTP status: the same codes, reasons and words as on the wire of gRPC."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from starlette.requests import Request
from starlette.responses import JSONResponse

from vinf_server.front.errors import VinfError
from vinf_server.front.rpc.errors import to_wire

_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}
"""Anything else is 500."""


class NoVideoError(Exception):
    """The video cannot be encoded here; the message says why."""


class RefusedError(Exception):
    """A request that no page of this server makes.

    Args:
        status: of HTTP.
        reason: a word for programs.
        message: for people.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def describe(error: Exception) -> dict[str, Any]:
    """Return code, reason, message and what is wrong with which field; unknown exceptions say nothing of themselves."""
    if isinstance(error, NoVideoError):
        return _description("UNIMPLEMENTED", "NO_VIDEO", str(error))
    if isinstance(error, RefusedError):
        return _description("PERMISSION_DENIED", error.reason, str(error))
    wire = to_wire(error)
    status = status_pb2.Status.FromString(bytes(wire.trailers[0][1]))  # type: ignore[arg-type]  # bytes by its key
    description = _description(wire.code.name, "", wire.message)
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(info):
            description |= {"reason": info.reason, "metadata": dict(info.metadata)}
        elif detail.Unpack(request):
            description["violations"] = [
                {"field": item.field, "description": item.description} for item in request.field_violations
            ]
    return description


def reply(error: Exception) -> JSONResponse:
    """Return the answer to a request that failed."""
    if isinstance(error, NoVideoError):
        status = 501
    elif isinstance(error, RefusedError):
        status = error.status
    else:
        status = _HTTP_STATUS.get(to_wire(error).code, 500)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(describe(error), status, headers={"Cache-Control": "no-store", **headers})


async def handle(_request: Request, error: Exception) -> JSONResponse:
    """Answer for starlette."""
    return reply(error)


HANDLERS: dict[Any, Any] = {VinfError: handle, NoVideoError: handle, RefusedError: handle}


def _description(code: str, reason: str, message: str) -> dict[str, Any]:
    return {"code": code, "reason": reason, "message": message, "metadata": {}, "violations": []}
