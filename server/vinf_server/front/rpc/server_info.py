"""`vinf.v1.ServerInfoService`."""

from __future__ import annotations

import time
import uuid

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import server_info_service_pb2 as service_pb2
from vinf.v1 import server_info_service_pb2_grpc as service_grpc
from vinf_server.flag_values import RankMesh
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.generations.generations import Generations
from vinf_server.front.grpc_types import Context
from vinf_server.front.metrics import API_VERSION
from vinf_server.front.rpc.convert import (
    VERSION,
    limits_message,
    mesh_message,
    model_message,
    rank_message,
    timestamp,
)


class ServerInfoService(service_grpc.ServerInfoServiceServicer):
    """Describes the server."""

    def __init__(
        self, generations: Generations, status: EngineStatus, *, max_waiting: int, disk_budget: int, mesh: RankMesh
    ) -> None:
        self._generations = generations
        self._status = status
        self._max_waiting = max_waiting
        self._disk_budget = disk_budget
        self._mesh = mesh
        self._boot_id = str(uuid.uuid4())
        self._start_time_ns = time.time_ns()

    async def GetServerInfo(  # noqa: N802
        self, request: service_pb2.GetServerInfoRequest, context: Context
    ) -> service_pb2.GetServerInfoResponse:
        """A snapshot of the server."""
        return service_pb2.GetServerInfoResponse(server_info=self.describe())

    def describe(self) -> service_pb2.ServerInfo:
        """What the server is and does now."""
        report = self._status.known_report or link_pb2.ReadyReport()
        group = self._status.group
        return service_pb2.ServerInfo(
            version=VERSION,
            api_version=API_VERSION,
            ready=self._status.is_ready and not self._generations.is_draining,
            server_time=timestamp(time.time_ns()),
            start_time=timestamp(self._start_time_ns),
            models=[model_message(report.model, report.memory)] if report.HasField("model") else [],
            limits=limits_message(
                self._max_waiting, report.memory, self._generations.limits, disk_budget=self._disk_budget
            ),
            ranks=[rank_message(beat) for beat in self._status.beats],
            waiting_generation_count=self._generations.waiting_count,
            running_generation_count=self._generations.running_count,
            boot_id=self._boot_id,
            mesh=mesh_message(self._mesh, group.world_size) if group is not None else None,
        )
