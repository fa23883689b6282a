"""The public server behind doors."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import pytest

from tests.server.fakes import model_limits
from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import video_generation_service_pb2_grpc
from vinf_server.flag_values import Address, RankMesh
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.rpc.doors import Doors
from vinf_server.front.rpc.health import HealthService
from vinf_server.front.rpc.server import start_public_server
from vinf_server.front.rpc.server_info import ServerInfoService
from vinf_server.front.rpc.video_generation import VideoGenerationService


@pytest.fixture
def behind(generations, metrics):
    """A public server behind some doors; it makes channels, and closes them at its end."""

    @asynccontextmanager
    async def serve(doors=Doors(), interceptors=()):  # noqa: B008  # frozen
        status = EngineStatus()
        status.known_report = link_pb2.ReadyReport(world_size=2, model=model_limits())
        server, address = await start_public_server(
            Address("127.0.0.1", 0),
            video_generation=VideoGenerationService(generations, status, metrics),
            server_info=ServerInfoService(generations, status, max_waiting=3, disk_budget=0, mesh=RankMesh()),
            health=HealthService(),
            metrics=metrics,
            doors=doors,
            interceptors=interceptors,
        )
        channels = []

        def channel(credentials=None):
            if credentials is None:
                channels.append(grpc.aio.insecure_channel(str(address)))
            else:
                channels.append(grpc.aio.secure_channel(str(address), credentials))
            return channels[-1]

        def video(credentials=None):
            return video_generation_service_pb2_grpc.VideoGenerationServiceStub(channel(credentials))

        try:
            yield SimpleNamespace(address=address, generations=generations, channel=channel, video=video)
        finally:
            for made in channels:
                await made.close()
            await server.stop(None)

    return serve


@pytest.fixture
def run():
    """Run a scenario, for at most 20 seconds."""
    return lambda scenario: asyncio.run(asyncio.wait_for(scenario, 20))
