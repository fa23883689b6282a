"""Public gRPC calls, under the names and labels of go-grpc-prometheus, which dashboards know."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from vinf_server.front.metrics import buckets


class CallMetrics:
    """One series a method, and a status where it has ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        method = ("grpc_type", "grpc_service", "grpc_method")
        self.started = Counter("grpc_server_started_total", "Calls that began.", method, registry=registry)
        self.handled = Counter(
            "grpc_server_handled_total", "Calls that ended, by status.", (*method, "grpc_code"), registry=registry
        )
        self.handling_seconds = Histogram(
            "grpc_server_handling_seconds",
            "From the beginning of a call to its end.",
            method,
            buckets=buckets.CALL,
            registry=registry,
        )
        self.messages_received = Counter(
            "grpc_server_msg_received_total", "Messages from clients.", method, registry=registry
        )
        self.messages_sent = Counter("grpc_server_msg_sent_total", "Messages to clients.", method, registry=registry)
