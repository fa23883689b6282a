"""The public interface as a stranger's program would call it, and what its errors say."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2

from vinf.v1 import (
    generation_pb2,
    server_info_service_pb2,
    server_info_service_pb2_grpc,
    video_generation_service_pb2,
    video_generation_service_pb2_grpc,
)

v1 = video_generation_service_pb2

RPC_TIMEOUT_S = 10.0

TERMINAL = {
    generation_pb2.GENERATION_STATE_SUCCEEDED,
    generation_pb2.GENERATION_STATE_FAILED,
    generation_pb2.GENERATION_STATE_CANCELLED,
}

_OPTIONS = (
    # A channel of its own has connections of its own.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", -1),
)


class Api:
    """The stubs of one connection, for asyncio."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self.video = video_generation_service_pb2_grpc.VideoGenerationServiceStub(self.channel)
        self._info = server_info_service_pb2_grpc.ServerInfoServiceStub(self.channel)

    async def close(self) -> None:
        """Close the connection; calls under way end."""
        await self.channel.close()

    async def get(self, generation_id: str) -> generation_pb2.Generation:
        """One snapshot."""
        request = v1.GetGenerationRequest(generation_id=generation_id)
        return (await self.video.GetGeneration(request, timeout=RPC_TIMEOUT_S)).generation

    async def running(self) -> list[generation_pb2.Generation]:
        """What the group works on."""
        request = v1.ListGenerationsRequest(states=[generation_pb2.GENERATION_STATE_RUNNING])
        return list((await self.video.ListGenerations(request, timeout=RPC_TIMEOUT_S)).generations)

    async def cancel(self, generation_id: str) -> None:
        """Ask for an end."""
        await self.video.CancelGeneration(
            v1.CancelGenerationRequest(generation_id=generation_id), timeout=RPC_TIMEOUT_S
        )

    async def delete(self, generation_id: str) -> None:
        """Have it forgotten."""
        await self.video.DeleteGeneration(
            v1.DeleteGenerationRequest(generation_id=generation_id), timeout=RPC_TIMEOUT_S
        )

    async def info(self) -> server_info_service_pb2.ServerInfo:
        """What the server says of itself."""
        request = server_info_service_pb2.GetServerInfoRequest()
        return (await self._info.GetServerInfo(request, timeout=RPC_TIMEOUT_S)).server_info


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason word in an error's ErrorInfo of domain "vinf"; empty where there is none: gRPC itself speaks."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == "vinf":
                    return str(info.reason)
    return ""


def is_passing(error: grpc.aio.AioRpcError) -> bool:
    """Whether a client should simply try again: the network, a restart, a full queue."""
    reason = reason_of(error)
    if not reason:
        # Without words of the server's own: a connection that was cut, or the time that a call was given.
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
