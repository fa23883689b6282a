"""How a generation is admitted, by whichever door its request came in."""

from __future__ import annotations

from functools import partial

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import video_generation_service_pb2 as service_pb2
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.errors import (
    ClientLimitError,
    DiskFullError,
    QueueFullError,
    ServerDrainingError,
    SpecTooLargeError,
    VinfError,
    WorkersNotReadyError,
)
from vinf_server.front.generations.generation import Generation
from vinf_server.front.generations.generations import Generations
from vinf_server.front.metrics import Metrics
from vinf_server.front.rpc.images import ImageTaker
from vinf_server.front.rpc.validation import check_create

_REJECTION_REASONS: dict[type[VinfError], str] = {
    ClientLimitError: "client_limit",
    DiskFullError: "disk_full",
    QueueFullError: "queue_full",
    ServerDrainingError: "draining",
    SpecTooLargeError: "too_large",
    WorkersNotReadyError: "not_ready",
}


class Admission:
    """Checks, admits, and counts what is refused."""

    def __init__(self, generations: Generations, status: EngineStatus, metrics: Metrics) -> None:
        self._generations = generations
        self._status = status
        self._metrics = metrics
        self._images = ImageTaker()

    async def create(
        self, request: service_pb2.CreateGenerationRequest, *, owner: str, host: str
    ) -> tuple[Generation, bool]:
        """Return the generation, which is on disk unless it was only to be checked, and whether it was there before.

        Args:
            request: as it came; of images that are looked at nothing but their digests is left in it afterwards.
            owner: who asks; empty where clients are not told apart.
            host: where the request comes from: whose requests are counted together where there is no owner.

        Raises:
            VinfError: why it is not admitted.
        """
        try:
            if self._status.known_report is None:
                self._generations.check_accepting()
            report = self._status.report
            self._generations.limits.creates.take(owner or host)
            images = await self._images.take(request.spec, report.model)
            # What was admitted once stays admitted, whatever these ranks have room for.
            is_retry = self._generations.has_request(request.request_id, owner=owner)
            memory = link_pb2.MemoryModel() if is_retry else report.memory
            normalised, terms = check_create(
                request, report.model, memory, owner=owner, is_retry=is_retry, found=images.violations
            )
            create = partial(
                self._generations.create,
                normalised,
                terms,
                request_id=request.request_id,
                validate_only=request.validate_only,
                images=images.pixels,
            )
            try:
                generation, deduplicated = create()
            except DiskFullError:
                # Somebody may have made room since the last look.
                await self._generations.keeper.look()
                generation, deduplicated = create()
            if not request.validate_only:
                await self._generations.settle(generation)
        except VinfError as error:
            self._metrics.generations.rejections.labels(_REJECTION_REASONS.get(type(error), "invalid")).inc()
            raise
        return generation, deduplicated
