"""The way to the collector. Nothing waits for it: what does not fit into the queue, or cannot be sent, is lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Tracer

_log = logging.getLogger(__name__)

SERVICE_NAME = "vinf"
"""Unless OTEL_SERVICE_NAME says otherwise."""

_CLOSE_S = 2.0
"""Longest a stop waits for the collector."""


class Telemetry:
    """Makes spans and sends them off, from a thread of the library."""

    def __init__(self, endpoint: str) -> None:
        """Open it.

        Args:
            endpoint: URL of a collector that takes OTLP over gRPC; empty: what the environment says.
        """
        # One warning of ours takes the place of a line for every try.
        library = logging.getLogger("opentelemetry")
        library.addHandler(logging.NullHandler())
        library.propagate = False
        exporter = OTLPSpanExporter(endpoint=endpoint or None)
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_TellingExporter(exporter)))
        self.tracer: Tracer = self._provider.get_tracer(SERVICE_NAME)

    async def close(self) -> None:
        """Send what is left, within `_CLOSE_S`."""
        closing = threading.Thread(target=self._provider.shutdown, name="vinf-telemetry", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _CLOSE_S)


class _TellingExporter(SpanExporter):
    """Says once that the collector takes nothing, and once that it does again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        result = self._exporter.export(spans)
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing and not self._is_failing:
            _log.warning("the OTLP collector takes no spans; they are left out until it does")
        elif self._is_failing and not is_failing:
            _log.info("the OTLP collector takes spans again")
        self._is_failing = is_failing
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()


def _resource() -> Resource:
    try:
        installed = version("vinf")
    except PackageNotFoundError:  # run from a source tree that is not installed
        installed = "unknown"
    # What the environment says (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) counts more.
    found = Resource.create({"service.version": installed})
    named = found.attributes.get("service.name", "")
    return found.merge(Resource({"service.name": SERVICE_NAME})) if str(named).startswith("unknown_service") else found
