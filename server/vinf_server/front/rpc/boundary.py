"""The one place where exceptions leave the front: every handler runs inside it.

Bytes that are no such message reach the handler as a mark instead of an exception, because gRPC would answer those with
UNKNOWN and print a traceback. Replies may be bytes already.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from vinf_server.front.errors import MalformedRequestError, VinfError
from vinf_server.front.grpc_types import Context, Handler
from vinf_server.front.rpc.errors import to_wire

_log = logging.getLogger(__name__)

_MALFORMED = object()


class Boundary(grpc.aio.ServerInterceptor):
    """Turns exceptions into statuses for unary and for streaming replies."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler; bidirectional ones (reflection) stay as they are."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        deserialize = _guard(handler.request_deserializer)
        serialize = _pass_bytes(handler.response_serializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(_stream(handler.unary_stream), deserialize, serialize)
        return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary), deserialize, serialize)


def _guard(deserialize: Any) -> Callable[[bytes], object]:
    def guarded(data: bytes) -> object:
        try:
            return deserialize(data)
        except (DecodeError, UnicodeDecodeError):
            return _MALFORMED

    return guarded


def _pass_bytes(serialize: Any) -> Callable[[Any], bytes]:
    """Let handlers answer with messages that were serialised once for many readers, off the event loop."""

    def serialize_unless_done(message: Any) -> bytes:
        return message if isinstance(message, bytes) else serialize(message)

    return serialize_unless_done


def _unary(method: Any) -> Callable[[Any, Context], Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        try:
            _check(request)
            return await method(request, context)
        except Exception as error:
            await _abort(error, context)

    return call


def _stream(method: Any) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            _check(request)
            async with aclosing(method(request, context)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:
            await _abort(error, context)

    return call


def _check(request: object) -> None:
    if request is _MALFORMED:
        raise MalformedRequestError("the request is not a message of the expected type, or holds invalid UTF-8")


async def _abort(error: Exception, context: Context) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, VinfError):
        if context.cancelled() or context.done():
            raise error  # the client has gone: gRPC's own error, and nobody to tell
        _log.exception("an unexpected error in a handler")
    wire = to_wire(error)
    await context.abort(wire.code, wire.message, wire.trailers)
