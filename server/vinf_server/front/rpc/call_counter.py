"""Counts calls, their messages, and how they end. Methods that no service has make no series."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from vinf_server.front.grpc_types import Context, Handler
from vinf_server.front.metrics.calls import CallMetrics

CODES = {
    code.value[0]: {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}.get(
        code, code.name.title().replace("_", "")
    )
    for code in grpc.StatusCode
}
"""Statuses as Go writes them, by number."""

_CANCELLED, _UNKNOWN, _DEADLINE_EXCEEDED = (
    code.value[0] for code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)
)
_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class CallCounter(grpc.aio.ServerInterceptor):
    """To be the outermost interceptor, so that refusals count as well.

    Args:
        services: whose methods are counted, from the beginning on.
    """

    def __init__(self, metrics: CallMetrics, services: Iterable[ServiceDescriptor]) -> None:
        self._methods = {
            f"/{service.full_name}/{method.name}": _Series(metrics, service, method)
            for service in services
            for method in service.methods
        }

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler of a known method."""
        handler = await continuation(handler_call_details)
        series = self._methods.get(handler_call_details.method)
        if handler is None or series is None:
            return handler
        deserialize, serialize = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming and handler.response_streaming:
            wrap = _both_streams if inspect.isasyncgenfunction(handler.stream_stream) else _refusal
            return grpc.stream_stream_rpc_method_handler(wrap(handler.stream_stream, series), deserialize, serialize)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(_stream(handler.unary_stream, series), deserialize, serialize)
        return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary, series), deserialize, serialize)


class _Series:
    """What the calls of one method change, looked up once."""

    def __init__(self, metrics: CallMetrics, service: ServiceDescriptor, method: MethodDescriptor) -> None:
        labels = (_TYPES[method.client_streaming, method.server_streaming], service.full_name, method.name)
        self._started = metrics.started.labels(*labels)
        self._seconds = metrics.handling_seconds.labels(*labels)
        self._handled = {number: metrics.handled.labels(*labels, name) for number, name in CODES.items()}
        self.received = metrics.messages_received.labels(*labels)
        self.sent = metrics.messages_sent.labels(*labels)

    @contextmanager
    def call(self, context: Context) -> Iterator[None]:
        """Count a call, from its beginning to its end."""
        self._started.inc()
        began = time.perf_counter()
        code = _UNKNOWN
        try:
            yield
            code = _code_of(context)
        except grpc.aio.AbortError:
            code = _code_of(context)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            # gRPC ends handlers in the same way when the client has gone and when its time is over.
            left_s = context.time_remaining()
            code = _CANCELLED if left_s is None or left_s > 0 else _DEADLINE_EXCEEDED
            raise
        finally:
            self._handled[code].inc()
            self._seconds.observe(time.perf_counter() - began)


def _code_of(context: Context) -> int:
    """What a handler has ended its call with; nothing is as good as OK."""
    code: Any = context.code()
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code or 0
    return number if number in CODES else _UNKNOWN


def _unary(method: Any, series: _Series) -> Callable[[Any, Context], Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        with series.call(context):
            series.received.inc()
            response = await method(request, context)
            series.sent.inc()
            return response

    return call


def _stream(method: Any, series: _Series) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        with series.call(context):
            series.received.inc()
            async with aclosing(method(request, context)) as responses:
                async for response in responses:
                    series.sent.inc()
                    yield response

    return call


def _both_streams(method: Any, series: _Series) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def counted(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            series.received.inc()
            yield request

    async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        with series.call(context):
            async with aclosing(method(counted(requests), context)) as responses:
                async for response in responses:
                    series.sent.inc()
                    yield response

    return call


def _refusal(method: Any, series: _Series) -> Callable[[Any, Context], Awaitable[None]]:
    """A handler that reads and sends nothing."""

    async def call(requests: AsyncIterator[Any], context: Context) -> None:
        with series.call(context):
            await method(requests, context)

    return call
