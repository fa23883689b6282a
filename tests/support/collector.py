"""An OpenTelemetry collector in this process: it keeps the spans that come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(pb_grpc.TraceServiceServicer):
    """Takes spans over OTLP."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self._changed = threading.Condition()

    def Export(self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext) -> Any:
        with self._changed:
            for resource in request.resource_spans:
                self.resources.append(attributes(resource.resource))
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self._changed.notify_all()
        return pb.ExportTraceServiceResponse()

    def wait_for(self, name: str, timeout: float = 30, **wanted: Any) -> Span:
        """Return the newest span of this name with these attributes (without their prefix vinf), once it has come."""

        def find() -> Span | None:
            fits = (s for s in reversed(self.spans) if s.name == name and wanted.items() <= plain(s).items())
            return next(fits, None)

        with self._changed:
            found = self._changed.wait_for(find, timeout)
        assert found, f"{name} {wanted} did not come; there are {sorted({span.name for span in self.spans})}"
        return found

    def children(self, parent: Span) -> list[Span]:
        """The spans below one, by their begin."""
        with self._changed:
            found = [s for s in self.spans if s.parent_span_id == parent.span_id and s.trace_id == parent.trace_id]
        return sorted(found, key=lambda span: (span.start_time_unix_nano, span.name))


def attributes(thing: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in thing.attributes}


def plain(span: Span) -> dict[str, Any]:
    """Its attributes under names that Python takes: vinf.rank is rank, rpc.method is rpc_method."""
    return {name.removeprefix("vinf.").replace(".", "_"): value for name, value in attributes(span).items()}


@contextmanager
def collector() -> Iterator[Collector]:
    """Run one on a free port."""
    made = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    pb_grpc.add_TraceServiceServicer_to_server(made, server)
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield made
    finally:
        server.stop(None).wait()
