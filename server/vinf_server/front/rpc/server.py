"""The public gRPC server."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from vinf.v1 import (
    server_info_service_pb2,
    server_info_service_pb2_grpc,
    video_generation_service_pb2,
    video_generation_service_pb2_grpc,
)
from vinf_server.flag_values import Address
from vinf_server.front.metrics import Metrics
from vinf_server.front.rpc.auth import Gate
from vinf_server.front.rpc.boundary import Boundary
from vinf_server.front.rpc.call_counter import CallCounter
from vinf_server.front.rpc.doors import OPEN_DOORS, Doors
from vinf_server.front.rpc.health import HealthService
from vinf_server.front.rpc.server_info import ServerInfoService
from vinf_server.front.rpc.video_generation import VideoGenerationService

MAX_REQUEST_BYTES = 16 << 20
"""A larger request is refused before any handler sees it: RESOURCE_EXHAUSTED, without a reason."""

MAX_METADATA_BYTES = 8 << 10
"""Names and values of a call's headers; a token takes 100 bytes."""

MAX_STREAMS_PER_CONNECTION = 2048
"""Calls under way; those beyond wait in the client."""

_OPTIONS = (
    # Without this, a second server takes the same port without an error and gets half of the connections.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Connections that never come to a first request.
    ("grpc.server_handshake_timeout_ms", 20_000),
    # Both the same: between the two, gRPC refuses by chance.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
    # Clients that ping every ten seconds on a quiet stream are within their rights.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)

_SERVICES = (
    video_generation_service_pb2.DESCRIPTOR.services_by_name["VideoGenerationService"],
    server_info_service_pb2.DESCRIPTOR.services_by_name["ServerInfoService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)


class AddressInUseError(Exception):
    """The address cannot be listened on; the message says why."""


async def start_public_server(
    address: Address,
    *,
    video_generation: VideoGenerationService,
    server_info: ServerInfoService,
    health: HealthService,
    metrics: Metrics,
    doors: Doors = OPEN_DOORS,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> tuple[grpc.aio.Server, Address]:
    """Serve every public service; returns the address with its real port.

    Args:
        address: where to listen.
        video_generation, server_info, health: what is served.
        metrics: count every call.
        doors: who may call.
        interceptors: see calls that may enter, with their status.
    """
    # The first one is outermost: every call is counted, and who may not call reaches nothing else.
    outer = (CallCounter(metrics.calls, _SERVICES), Gate(doors.tokens))
    server = grpc.aio.server(interceptors=(*outer, *interceptors, Boundary()), options=_OPTIONS)
    video_generation_service_pb2_grpc.add_VideoGenerationServiceServicer_to_server(video_generation, server)
    server_info_service_pb2_grpc.add_ServerInfoServiceServicer_to_server(server_info, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection([service.full_name for service in _SERVICES], server)
    try:
        check_free(address)
        if doors.certificates is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), doors.certificates.credentials())
    except (OSError, RuntimeError) as error:
        await server.stop(None)
        reason = error.strerror if isinstance(error, OSError) else "it is in use or not an address of this machine"
        raise AddressInUseError(f"cannot listen on {address}: {reason}") from error
    await server.start()
    return server, address.with_port(port)


def check_free(address: Address) -> None:
    """Raise OSError when nobody can listen there: gRPC would print its own lines about it first."""
    family, kind, protocol, _, target = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(target)
