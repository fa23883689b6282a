"""The public calls, under the names that gRPC dashboards use."""

from __future__ import annotations

from deploy.grafana.dashboard.layout import Row
from deploy.grafana.dashboard.panels import About, Query, graph
from deploy.grafana.dashboard.promql import here, quantile, rate, total


def row() -> Row:
    """Make the row."""
    unary = here("grpc_server_handling_seconds", 'grpc_type="unary", grpc_method!="PullFrames"')
    begun, ended = (total(here(f"grpc_server_{what}_total"), "grpc_method") for what in ("started", "handled"))
    return Row(
        "gRPC",
        [
            graph(
                About(
                    "Calls a second by method and status",
                    "Calls that ended.",
                    "Unavailable or Internal are the server's; InvalidArgument and ResourceExhausted the clients'.",
                    "reqps",
                ),
                Query(
                    f"{rate(here('grpc_server_handled_total'), 'grpc_method', 'grpc_code')} > 0",
                    "{{grpc_method}} {{grpc_code}}",
                ),
            ),
            graph(
                About(
                    "Time of a call p95",
                    "Of calls with one reply, but for PullFrames: that waits as long as its client asks it to.",
                    "all growing together: see 'Event loop lag'; one: that method's work.",
                    "s",
                ),
                Query(quantile("0.95", unary, "grpc_method"), "{{grpc_method}}"),
            ),
            graph(
                About(
                    "Calls in flight",
                    "Begun and not yet ended.",
                    "growing without end: clients that open streams and neither read nor close them.",
                    "none",
                ),
                Query(f"{begun} - ({ended} or 0 * {begun})", "{{grpc_method}}"),
            ),
            graph(
                About(
                    "Messages a second",
                    "Sent to clients and received from them.",
                    "none received while clients are there: they do not get through.",
                    "none",
                ),
                Query(rate(here("grpc_server_msg_sent_total"), "grpc_method"), "sent: {{grpc_method}}"),
                Query(rate(here("grpc_server_msg_received_total")), "received"),
            ),
        ],
    )
