"""The servicer of `vinf.engine.v1`: where the ranks talk to the front."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator

import grpc

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.engine.v1 import engine_link_service_pb2_grpc as link_grpc
from vinf_server.addresses import peer_host
from vinf_server.front.checkpoints import PartError
from vinf_server.front.engine.checkpoint_intake import CheckpointIntake
from vinf_server.front.engine.dispatcher import Dispatcher
from vinf_server.front.engine.group import Group
from vinf_server.front.engine.image_supply import ImageSupply
from vinf_server.front.engine.intake import FrameIntake
from vinf_server.front.engine.preview_intake import PreviewError, PreviewIntake
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.engine.trace_intake import TraceError, TraceIntake
from vinf_server.front.engine.worker_metrics import WorkerMetrics
from vinf_server.front.frames.spool import SliceError
from vinf_server.front.grpc_types import Context

_log = logging.getLogger(__name__)

RECEIVE_LIMIT_BYTES = 4 << 20
"""Slices are at most 1 MiB."""


class EngineLink(link_grpc.EngineLinkServiceServicer):
    """Takes reports, beats and frames of the group of the moment; a stream that breaks means that the group is lost."""

    def __init__(
        self,
        status: EngineStatus,
        dispatcher: Dispatcher,
        intake: FrameIntake,
        checkpoint_intake: CheckpointIntake,
        preview_intake: PreviewIntake,
        trace_intake: TraceIntake,
        image_supply: ImageSupply,
        worker_metrics: WorkerMetrics,
    ) -> None:
        self._status = status
        self._dispatcher = dispatcher
        self._intake = intake
        self._checkpoint_intake = checkpoint_intake
        self._preview_intake = preview_intake
        self._trace_intake = trace_intake
        self._image_supply = image_supply
        self._worker_metrics = worker_metrics

    async def Attach(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[link_pb2.AttachRequest], context: Context
    ) -> None:
        """Orders out, reports in, for as long as the group lives."""
        group = await self._check_epoch(context)
        if group.is_attached:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "a rank is attached already")
        group.is_attached = True
        reports = asyncio.create_task(self._take_reports(group, request_iterator))
        try:
            while (order := await group.next_order()) is not None:
                failed = await self._image_supply.fill(order)
                if failed is None:
                    # Not yielded: gRPC would keep it, and the pixels in it, until the next one comes.
                    await context.write(order)
                else:
                    self._take_report(group, failed)
                del order
        finally:
            reports.cancel()
            group.lose_stream(0)

    async def Beat(  # noqa: N802
        self, request_iterator: AsyncIterator[link_pb2.BeatRequest], context: Context
    ) -> link_pb2.BeatResponse:
        """Signs of life of one rank."""
        group = await self._check_epoch(context)
        rank: int | None = None
        try:
            async for beat in request_iterator:
                if not 0 <= beat.rank < group.world_size:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"there is no rank {beat.rank}")
                rank = beat.rank
                if self._status.group is group and not group.lost.done():
                    group.take_beat(beat)
                    self._worker_metrics.take_beat(group.epoch, beat)
        finally:
            if rank is not None:
                group.lose_stream(rank)
        return link_pb2.BeatResponse()

    async def SendFrames(  # noqa: N802
        self, request_iterator: AsyncIterator[link_pb2.SendFramesRequest], context: Context
    ) -> link_pb2.SendFramesResponse:
        """Frames of one rank and one generation, into the spool."""
        group = await self._check_epoch(context)
        sent: set[int] = set()
        generation_id, peer = "", peer_host(context.peer())
        try:
            async for request in request_iterator:
                if group.lost.done():
                    # A rank that was stopped may go on before it is killed: the next group makes these frames.
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"epoch {group.epoch} is over")
                generation_id = request.generation_id
                if request.WhichOneof("payload") == "frame":
                    self._worker_metrics.take_frame_bytes(peer, len(request.frame.data))
                    if await self._intake.store(generation_id, request.frame):
                        sent.add(request.frame.frame_index)
                elif request.complete.frame_count != len(sent):
                    _log.debug(
                        "generation %s: rank %d sent %d frames, %d were wanted",
                        *(generation_id, request.rank, request.complete.frame_count, len(sent)),
                    )
        except SliceError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        stored = sum(self._intake.is_stored(generation_id, index) for index in sent)
        return link_pb2.SendFramesResponse(stored_frame_count=stored)

    async def SendCheckpoint(  # noqa: N802
        self, request_iterator: AsyncIterator[link_pb2.SendCheckpointRequest], context: Context
    ) -> link_pb2.SendCheckpointResponse:
        """One rank's part of a checkpoint, to disk."""
        group = await self._check_epoch(context)
        try:
            stored = await self._checkpoint_intake.store(request_iterator, is_wanted=lambda: not group.lost.done())
        except PartError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return link_pb2.SendCheckpointResponse(stored=stored)

    async def FetchCheckpoint(  # noqa: N802
        self, request: link_pb2.FetchCheckpointRequest, context: Context
    ) -> AsyncIterator[link_pb2.FetchCheckpointResponse]:
        """Some frames of the newest checkpoint of the generation in work."""
        await self._check_epoch(context)
        try:
            async for piece in self._checkpoint_intake.read(request):
                yield link_pb2.FetchCheckpointResponse(data=piece)
        except LookupError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except OSError as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, f"the checkpoint cannot be read: {error}")

    async def SendPreview(  # noqa: N802
        self, request: link_pb2.SendPreviewRequest, context: Context
    ) -> link_pb2.SendPreviewResponse:
        """What some frames look like so far, to those who watch."""
        group = await self._check_epoch(context)
        try:
            await self._preview_intake.show(request, is_wanted=lambda: not group.lost.done())
        except PreviewError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return link_pb2.SendPreviewResponse()

    async def SendTrace(  # noqa: N802
        self, request: link_pb2.SendTraceRequest, context: Context
    ) -> link_pb2.SendTraceResponse:
        """What a rank did with its time."""
        group = await self._check_epoch(context)
        is_same_host = peer_host(context.peer()) == "unix"
        try:
            await self._trace_intake.store(
                request, epoch=group.epoch, world_size=group.world_size, is_same_host=is_same_host
            )
        except TraceError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return link_pb2.SendTraceResponse()

    async def _take_reports(self, group: Group, requests: AsyncIterator[link_pb2.AttachRequest]) -> None:
        try:
            async for request in requests:
                if self._status.group is not group or group.lost.done():
                    continue
                if request.WhichOneof("report") == "ready":
                    group.take_ready(request.ready)
                else:
                    self._take_report(group, request)
        except Exception:
            # A rank that breaks the contract must not leave the group half alive.
            _log.exception("a report of epoch %d could not be taken", group.epoch)
        finally:
            group.end_orders()

    def _take_report(self, group: Group, report: link_pb2.AttachRequest) -> None:
        group.take_report(report)
        self._dispatcher.take_report(group, report)

    async def _check_epoch(self, context: Context) -> Group:
        """Let only ranks of the group of the moment in."""
        metadata = dict(context.invocation_metadata() or ())
        group, claimed = self._status.group, metadata.get("vinf-epoch")
        if group is None or group.lost.done() or claimed != str(group.epoch):
            current = "none" if group is None or group.lost.done() else group.epoch
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"vinf-epoch is {claimed!r}, the current epoch is {current}"
            )
        return group


async def start_link_server(link: EngineLink, address: str) -> grpc.aio.Server:
    """Serve the link on a unix socket, which only this user may connect to."""
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", RECEIVE_LIMIT_BYTES),))
    link_grpc.add_EngineLinkServiceServicer_to_server(link, server)
    server.add_insecure_port(address)
    os.chmod(address.removeprefix("unix:"), 0o600)
    await server.start()
    return server
