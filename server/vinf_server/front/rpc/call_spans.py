"""A span for every call of a client; imported only where OpenTelemetry is switched on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.context import Context as Parent
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from vinf_server.front.grpc_types import Context, Handler
from vinf_server.logs import bound

_PREFIX = "/vinf."
"""Health checks and reflection tell nothing."""

_OUR_FAULT = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""What the conventions call errors of a server's span; the others are the client's."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class CallSpans(grpc.aio.ServerInterceptor):
    """Opens a span when a call begins, below what the client names in `traceparent`, and ends it with the status."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler."""
        handler = await continuation(handler_call_details)
        name = handler_call_details.method
        if handler is None or handler.request_streaming or not name.startswith(_PREFIX):
            return handler
        headers = {
            key: value for key, value in handler_call_details.invocation_metadata or () if isinstance(value, str)
        }
        parent = self._propagator.extract(headers, Parent())
        serialisers = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(handler.unary_stream, name, parent), *serialisers)
        return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary, name, parent), *serialisers)

    def _unary(self, method: Any, name: str, parent: Parent) -> Callable[[Any, Context], Awaitable[Any]]:
        async def call(request: Any, context: Context) -> Any:
            span = self._start(name, parent, request)
            trace_id = format_trace_id(span.get_span_context().trace_id)
            try:
                with (
                    trace.use_span(span, record_exception=False, set_status_on_exception=False),
                    bound(trace_id=trace_id),
                ):
                    response = await method(request, context)
                _name_generation(span, getattr(response, "generation", None))
                return response
            except asyncio.CancelledError:
                _end(span, grpc.StatusCode.CANCELLED)
                raise
            finally:
                _end(span, _code(context))

        return call

    def _stream(self, method: Any, name: str, parent: Parent) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            span = self._start(name, parent, request)
            trace_id = format_trace_id(span.get_span_context().trace_id)
            try:
                async with aclosing(method(request, context)) as responses:
                    while True:
                        # Not over the yield: whoever takes the response goes on in this same context.
                        with bound(trace_id=trace_id):
                            response = await anext(responses, None)
                        if response is None:
                            break
                        yield response
            except (asyncio.CancelledError, GeneratorExit):
                _end(span, grpc.StatusCode.CANCELLED)
                raise
            finally:
                _end(span, _code(context))

        return call

    def _start(self, name: str, parent: Parent, request: object) -> Span:
        service, _, method = name.removeprefix("/").partition("/")
        span = self._tracer.start_span(
            f"{service}/{method}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        _name_generation(span, request)
        return span


def _name_generation(span: Span, message: object) -> None:
    generation_id = getattr(message, "generation_id", "")
    if generation_id:
        span.set_attribute("vinf.generation_id", generation_id[:64])


def _code(context: Context) -> grpc.StatusCode:
    code = context.code()
    return _CODES.get(code, grpc.StatusCode.UNKNOWN) if isinstance(code, int) else code or grpc.StatusCode.OK


def _end(span: Span, code: grpc.StatusCode) -> None:
    """End a span; it changes nothing the second time."""
    if not span.is_recording():
        return
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code in _OUR_FAULT:
        span.set_status(Status(StatusCode.ERROR, code.name))
    span.end()
