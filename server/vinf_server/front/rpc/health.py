"""`grpc.health.v1.Health`: "" is alive as long as it answers, the service's name follows the group of ranks.

Written here because the packaged servicer keeps its Watch streams open during a shutdown, which then takes its full
grace period.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vinf_server.front.grpc_types import Context
from vinf_server.front.wakeup import Wakeup

SERVICE = "vinf.v1.VideoGenerationService"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Liveness and readiness."""

    def __init__(self) -> None:
        self._statuses = {"": _SERVING, SERVICE: _NOT_SERVING}
        self._changed = Wakeup()
        self._is_closed = False

    def set_ready(self, is_ready: bool) -> None:  # the value is the message
        """Say whether generations can run now."""
        self._statuses[SERVICE] = _SERVING if is_ready else _NOT_SERVING
        self._changed.notify()

    def close(self) -> None:
        """End every Watch stream after its last status."""
        self._is_closed = True
        self._changed.notify()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status now."""
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service is called {request.service[:64]!r}")
        return health_pb2.HealthCheckResponse(status=self._statuses[request.service])

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and whenever it changes."""
        sent = None
        while True:
            status = self._statuses.get(request.service, _SERVICE_UNKNOWN)
            if status != sent:
                yield health_pb2.HealthCheckResponse(status=status)
                sent = status
                continue
            if self._is_closed:
                return
            await self._changed.wait()
