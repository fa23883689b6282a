"""`vinf.v1.VideoGenerationService`."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

from vinf.v1 import generation_pb2
from vinf.v1 import video_generation_service_pb2 as service_pb2
from vinf.v1 import video_generation_service_pb2_grpc as service_grpc
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.frames.delivery import FrameReader
from vinf_server.front.frames.pulling import FramePuller
from vinf_server.front.frames.shared import SharedFrames
from vinf_server.front.frames.video import Rendition
from vinf_server.front.generations.generation import Generation
from vinf_server.front.generations.generations import Generations
from vinf_server.front.generations.leases import OpenStream
from vinf_server.front.generations.story import trace_of
from vinf_server.front.grpc_types import Context
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.delivery import PULL, STREAM, WATCH
from vinf_server.front.rpc.admission import Admission
from vinf_server.front.rpc.auth import principal_of
from vinf_server.front.rpc.convert import (
    DRAINING,
    error_message,
    event_message,
    generation_message,
    progress_message,
)
from vinf_server.front.rpc.frame_requests import check_pull, check_stream
from vinf_server.front.rpc.validation import check_list, check_watch, make_page_token
from vinf_server.front.wakeup import wait_any

_REPLY_S = 0.1
"""Before a call's deadline, for a reply to get home."""


class VideoGenerationService(service_grpc.VideoGenerationServiceServicer):
    """Converts, calls, converts back; `Boundary` turns what is raised here into a status."""

    def __init__(self, generations: Generations, status: EngineStatus, metrics: Metrics) -> None:
        self._generations = generations
        self._admission = Admission(generations, status, metrics)
        self._metrics = metrics
        self._frames = SharedFrames(metrics)
        generations.keeper.when_forgotten(self._frames.forget)

    async def CreateGeneration(  # noqa: N802
        self, request: service_pb2.CreateGenerationRequest, context: Context
    ) -> service_pb2.CreateGenerationResponse:
        """Check, admit, reply."""
        generation, deduplicated = await self._admission.create(
            request, owner=principal_of(context), host=_host(context)
        )
        snapshot = generation_message(generation, self._generations)
        return service_pb2.CreateGenerationResponse(generation=snapshot, deduplicated=deduplicated)

    async def GetGeneration(  # noqa: N802
        self, request: service_pb2.GetGenerationRequest, context: Context
    ) -> service_pb2.GetGenerationResponse:
        """A snapshot."""
        generation = self._generations.get(request.generation_id, owner=principal_of(context))
        self._generations.leases.touch(generation.generation_id)
        return service_pb2.GetGenerationResponse(generation=generation_message(generation, self._generations))

    async def ListGenerations(  # noqa: N802
        self, request: service_pb2.ListGenerationsRequest, context: Context
    ) -> service_pb2.ListGenerationsResponse:
        """One page, newest first."""
        size, before_id = check_list(request)
        # One more than asked for tells whether there is another page.
        page = self._generations.page(
            before_id=before_id, states=frozenset(request.states), limit=size + 1, owner=principal_of(context)
        )
        return service_pb2.ListGenerationsResponse(
            generations=[generation_message(generation, self._generations) for generation in page[:size]],
            next_page_token=make_page_token(page[size - 1].generation_id) if len(page) > size else "",
        )

    async def CancelGeneration(  # noqa: N802
        self, request: service_pb2.CancelGenerationRequest, context: Context
    ) -> service_pb2.CancelGenerationResponse:
        """Ask for the end."""
        owned = self._generations.get(request.generation_id, owner=principal_of(context))
        generation = self._generations.cancel(owned.generation_id)
        await self._generations.until_saved()
        return service_pb2.CancelGenerationResponse(generation=generation_message(generation, self._generations))

    async def DeleteGeneration(  # noqa: N802
        self, request: service_pb2.DeleteGenerationRequest, context: Context
    ) -> service_pb2.DeleteGenerationResponse:
        """Forget it."""
        owned = self._generations.get(request.generation_id, owner=principal_of(context))
        await self._generations.delete(owned.generation_id)
        return service_pb2.DeleteGenerationResponse()

    async def WatchGeneration(  # noqa: N802
        self, request: service_pb2.WatchGenerationRequest, context: Context
    ) -> AsyncIterator[service_pb2.WatchGenerationResponse]:
        """Snapshots until a terminal one; what changes while one is being sent is merged into the next.

        Previews come along where they are asked for, and wake nobody else.
        """
        generation = self._generations.get(request.generation_id, owner=principal_of(context))
        sequence = check_watch(request)
        sent, board, board_version = None, generation.previews, 0
        wakeups = (generation.changed, board.changed) if request.with_previews else (generation.changed,)
        with self._following(WATCH, generation, resumes=sequence > 0) as held:
            while True:
                snapshot = generation_message(generation, self._generations)
                previews = board.since(board_version) if request.with_previews else []
                if snapshot != sent or previews:
                    board_version = board.version
                    events = [event_message(event) for event in generation.events[sequence:]]
                    with held.giving():
                        yield service_pb2.WatchGenerationResponse(generation=snapshot, events=events, previews=previews)
                    sent, sequence = snapshot, max(sequence, snapshot.sequence)
                elif generation.is_terminal:
                    return
                else:
                    self._generations.check_open()
                    await wait_any(*wakeups)

    async def StreamFrames(  # type: ignore[override]  # noqa: N802
        self, request: service_pb2.StreamFramesRequest, context: Context
    ) -> AsyncIterator[service_pb2.StreamFramesResponse | bytes]:
        """Header, frames and what is told in between, end; frames are serialised already."""
        generation = self._generations.get(request.generation_id, owner=principal_of(context))
        window = check_stream(request, generation.resolved_spec)
        generation.frames.check_available(window.start)
        rendition = Rendition(generation, window.output)
        reader = FrameReader(
            rendition,
            window,
            self._frames,
            self._metrics,
            is_draining=lambda: self._generations.is_draining or generation.is_forgotten,
            progress=lambda: progress_message(generation, self._generations),
            release=lambda index: self._generations.release_before(generation, index),
        )
        with (
            self._following(STREAM, generation, resumes=window.start > 0) as held,
            _noted(generation, context, reader),
        ):
            yield service_pb2.StreamFramesResponse(header=rendition.header)
            async with aclosing(reader.responses()) as responses:
                async for response in responses:
                    with held.giving():
                        yield response
            if generation.is_forgotten and reader.next_index < window.stop:
                self._generations.get(request.generation_id)  # tells that it is gone
            yield service_pb2.StreamFramesResponse(
                end=service_pb2.StreamEnd(
                    state=generation.state, error=self._stream_error(generation), next_frame_index=reader.next_index
                )
            )

    async def PullFrames(  # type: ignore[override]  # noqa: N802
        self, request: service_pb2.PullFramesRequest, context: Context
    ) -> bytes:
        """The frames that are there, serialised."""
        generation = self._generations.get(request.generation_id, owner=principal_of(context))
        pull = check_pull(request, generation.resolved_spec)
        puller = FramePuller(
            Rendition(generation, pull.output),
            pull,
            self._frames,
            self._metrics,
            is_draining=lambda: self._generations.is_draining or generation.is_forgotten,
            release=lambda index: self._generations.release_before(generation, index),
        )
        left_s, began_ns = context.time_remaining(), time.time_ns()
        limit_s = math.inf if left_s is None else left_s - _REPLY_S
        with self._counted(PULL), self._generations.leases.holding(generation.generation_id):
            response = await puller.response(limit_s=limit_s)
        if generation.is_forgotten:
            self._generations.get(request.generation_id)  # tells that it is gone
        generation.readers.pulled(context.peer(), pull.start, len(response.frames), began_ns)
        response.state = generation.state
        response.end_of_stream = puller.is_last(response)
        error = self._stream_error(generation)
        if error is not None:
            response.error.CopyFrom(error)
        return await puller.serialised(response)

    async def GetTrace(  # noqa: N802
        self, request: service_pb2.GetTraceRequest, context: Context
    ) -> AsyncIterator[service_pb2.GetTraceResponse]:
        """What happened when."""
        generation = self._generations.get(request.generation_id, owner=principal_of(context))
        async with aclosing(trace_of(generation)) as responses:
            async for response in responses:
                yield response

    def _stream_error(self, generation: Generation) -> generation_pb2.GenerationError | None:
        """Why no further frame comes; None while some may, or when none is missing."""
        is_cut = not generation.is_terminal and self._generations.is_draining
        return error_message(DRAINING if is_cut else generation.failure)

    @contextmanager
    def _following(self, method: str, generation: Generation, *, resumes: bool) -> Iterator[OpenStream]:
        """While a stream of a generation is open; `resumes`: it begins where an earlier one may have got to."""
        metrics = self._metrics.delivery
        if resumes:
            metrics.stream_resumes.labels(method).inc()
        stall = metrics.client_stall.labels(method)
        with (
            self._counted(method),
            self._generations.leases.holding(generation.generation_id, on_given=stall.inc) as held,
        ):
            yield held

    @contextmanager
    def _counted(self, method: str) -> Iterator[None]:
        streams = self._metrics.delivery.active_streams.labels(method)
        streams.inc()
        try:
            yield
        finally:
            streams.dec()


@contextmanager
def _noted(generation: Generation, context: Context, reader: FrameReader) -> Iterator[None]:
    """Let the generation's trace tell of a stream."""
    reading = generation.readers.stream_opened(context.peer(), reader.next_index)
    try:
        yield
    finally:
        reading.end_ns, reading.frame_count = time.time_ns(), reader.next_index - reading.start_frame


def _host(context: Context) -> str:
    """Where a call comes from: whose calls are counted together where clients are not told apart by name."""
    return context.peer().rpartition(":")[0]
