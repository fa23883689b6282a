"""What the channels of both clients have in common: options, the address, what every call carries."""

import sys
from importlib.metadata import PackageNotFoundError, version

from vinf_client._access import Access, is_loopback
from vinf_client._config import DEFAULT_SERVER
from vinf_client._errors import InvalidRequestError, Violation

_RECEIVE_LIMIT = 64 * 1024 * 1024
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _RECEIVE_LIMIT),
    # A hung machine is noticed even while no frame is due; servers send at least a keepalive every 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's own pause between connection attempts grows to two minutes; a restarted server is back sooner.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def channel_options(target: str) -> list[tuple[str, int]]:
    """Return the options of a channel to a checked address."""
    options = list(_OPTIONS)
    if is_loopback(target):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy could not reach them
    return options


def call_metadata(access: Access) -> tuple[tuple[str, str], ...]:
    """Return what every call carries."""
    return (("x-vinf-client", f"python/{package_version()}"), *access.metadata)


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the `traceparent` of the span that is active here, where the program itself uses OpenTelemetry."""
    propagate = sys.modules.get("opentelemetry.propagate")
    carrier: dict[str, str] = {}
    if propagate is not None:
        propagate.inject(carrier)
    return tuple((key, value) for key, value in carrier.items() if key in ("traceparent", "tracestate"))


def check_target(server: str, source: str = "") -> str:
    """Check an address here: gRPC would take any text and fail later with words about name resolution.

    Args:
        server: the address.
        source: where it was found, when no argument gave it.

    Raises:
        InvalidRequestError: it is none.
    """
    text = server.strip()
    if text.startswith(("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:")):
        return text
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535) or "/" in text:
        raise InvalidRequestError.of(
            [
                Violation(
                    "server",
                    f"must be HOST:PORT with a port in [1, 65535], for example {DEFAULT_SERVER}; got {server!r}",
                    source,
                )
            ]
        )
    return text


def package_version() -> str:
    """Return this package's own; "unknown" where it is not installed."""
    try:
        return version("vinf")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
