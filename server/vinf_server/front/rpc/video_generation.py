"""`vinf.v1.VideoGenerationService`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import video_generation_service_pb2 as service_pb2
from vinf.v1 import video_generation_service_pb2_grpc as service_grpc
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.errors import (
    QueueFullError,
    ServerDrainingError,
    SpecTooLargeError,
    VinfError,
    WorkersNotReadyError,
)
from vinf_server.front.frames.delivery import FrameReader
from vinf_server.front.frames.layout import video_format
from vinf_server.front.generations.generations import Generations
from vinf_server.front.grpc_types import Context
from vinf_server.front.metrics import Metrics
from vinf_server.front.rpc.convert import DRAINING, error_message, generation_message
from vinf_server.front.rpc.validation import check_create, check_list, check_stream, make_page_token

_REJECTION_REASONS: dict[type[VinfError], str] = {
    QueueFullError: "queue_full",
    ServerDrainingError: "draining",
    SpecTooLargeError: "too_large",
    WorkersNotReadyError: "not_ready",
}


class VideoGenerationService(service_grpc.VideoGenerationServiceServicer):
    """Converts, calls, converts back; `Boundary` turns what is raised here into a status."""

    def __init__(self, generations: Generations, status: EngineStatus, metrics: Metrics) -> None:
        self._generations = generations
        self._status = status
        self._metrics = metrics

    async def CreateGeneration(  # noqa: N802
        self, request: service_pb2.CreateGenerationRequest, context: Context
    ) -> service_pb2.CreateGenerationResponse:
        """Check, admit, reply."""
        try:
            if self._status.known_report is None:
                self._generations.check_accepting()
            report = self._status.report
            # What was admitted once stays admitted, whatever these ranks have room for.
            is_retry = self._generations.has_request(request.request_id)
            normalised = check_create(request, report.model, link_pb2.MemoryModel() if is_retry else report.memory)
            generation, deduplicated = self._generations.create(
                normalised, request_id=request.request_id, validate_only=request.validate_only
            )
        except VinfError as error:
            self._metrics.rejections.labels(_REJECTION_REASONS.get(type(error), "invalid")).inc()
            raise
        snapshot = generation_message(generation, self._generations)
        return service_pb2.CreateGenerationResponse(generation=snapshot, deduplicated=deduplicated)

    async def GetGeneration(  # noqa: N802
        self, request: service_pb2.GetGenerationRequest, context: Context
    ) -> service_pb2.GetGenerationResponse:
        """A snapshot."""
        generation = self._generations.get(request.generation_id)
        return service_pb2.GetGenerationResponse(generation=generation_message(generation, self._generations))

    async def ListGenerations(  # noqa: N802
        self, request: service_pb2.ListGenerationsRequest, context: Context
    ) -> service_pb2.ListGenerationsResponse:
        """One page, newest first."""
        size, before_id = check_list(request)
        # One more than asked for tells whether there is another page.
        page = self._generations.page(before_id=before_id, states=frozenset(request.states), limit=size + 1)
        return service_pb2.ListGenerationsResponse(
            generations=[generation_message(generation, self._generations) for generation in page[:size]],
            next_page_token=make_page_token(page[size - 1].generation_id) if len(page) > size else "",
        )

    async def CancelGeneration(  # noqa: N802
        self, request: service_pb2.CancelGenerationRequest, context: Context
    ) -> service_pb2.CancelGenerationResponse:
        """Ask for the end."""
        generation = self._generations.cancel(request.generation_id)
        return service_pb2.CancelGenerationResponse(generation=generation_message(generation, self._generations))

    async def WatchGeneration(  # noqa: N802
        self, request: service_pb2.WatchGenerationRequest, context: Context
    ) -> AsyncIterator[service_pb2.WatchGenerationResponse]:
        """Snapshots until a terminal one; what changes while one is being sent is merged into the next."""
        generation = self._generations.get(request.generation_id)
        sent = None
        with self._counted("WatchGeneration"):
            while True:
                snapshot = generation_message(generation, self._generations)
                if snapshot != sent:
                    yield service_pb2.WatchGenerationResponse(generation=snapshot)
                    sent = snapshot
                elif generation.is_terminal:
                    return
                else:
                    self._generations.check_accepting()
                    await generation.changed.wait()

    async def StreamFrames(  # noqa: N802
        self, request: service_pb2.StreamFramesRequest, context: Context
    ) -> AsyncIterator[service_pb2.StreamFramesResponse]:
        """Header, frames and keepalives, end."""
        generation = self._generations.get(request.generation_id)
        window = check_stream(request, generation.frames.frame_count)
        reader = FrameReader(
            generation,
            window,
            is_draining=lambda: self._generations.is_draining,
            count_frame=self._count_frame,
        )
        with self._counted("StreamFrames"):
            yield service_pb2.StreamFramesResponse(header=video_format(generation.resolved_spec))
            async with aclosing(reader.responses()) as responses:
                async for response in responses:
                    yield response
            is_cut = not generation.is_terminal and self._generations.is_draining
            error = error_message(DRAINING if is_cut else generation.failure)
            yield service_pb2.StreamFramesResponse(
                end=service_pb2.StreamEnd(state=generation.state, error=error, next_frame_index=reader.next_index)
            )

    def _count_frame(self, size: int) -> None:
        self._metrics.delivered_frames.labels("StreamFrames", "raw").inc()
        self._metrics.delivered_bytes.labels("StreamFrames", "raw").inc(size)

    @contextmanager
    def _counted(self, method: str) -> Iterator[None]:
        streams = self._metrics.active_streams.labels(method)
        streams.inc()
        try:
            yield
        finally:
            streams.dec()
