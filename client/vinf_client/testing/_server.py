"""The fake server: every call of the public interface but none of the work behind it."""

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from vinf.v1 import generation_pb2 as pb
from vinf.v1 import server_info_service_pb2 as info_pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf.v1.server_info_service_pb2_grpc import ServerInfoServiceServicer, add_ServerInfoServiceServicer_to_server
from vinf.v1.video_generation_service_pb2_grpc import (
    VideoGenerationServiceServicer,
    add_VideoGenerationServiceServicer_to_server,
)
from vinf_client._channel import package_version
from vinf_client.testing._checks import check_create, check_frames
from vinf_client.testing._generation import FakeGeneration
from vinf_client.testing._model import LIMITS, MODEL, resolve
from vinf_client.testing._reading import FakePull, FakeStream
from vinf_client.testing._script import Script
from vinf_client.testing._status import refuse

_SERVICE = service_pb.DESCRIPTOR.services_by_name["VideoGenerationService"].full_name
_WORKERS = 64
_STOP_TIMEOUT = 10.0  # seconds
_RETRY_AFTER = 0.05  # seconds


class FakeServer(VideoGenerationServiceServicer, ServerInfoServiceServicer):
    """A vinf server on a free port of this machine; use it in a `with` statement.

    >>> from vinf_client import Client, GenerationFailedError
    >>> with FakeServer(fail_at_frame=2) as server, Client(server.address) as client:
    ...     try:
    ...         client.submit("a red ball").wait()
    ...     except GenerationFailedError as error:
    ...         print(error.reason)
    WORKER_LOST

    Generations need no ranks and no time unless the script says so; what frame n shows, `fake_pixels` tells.

    Args:
        queue_full: creations that are refused with QUEUE_FULL before one is accepted.
        script: fields of `Script`, for every generation.
    """

    def __init__(self, *, queue_full: int = 0, **script: Any) -> None:
        self.script = Script(**script)
        """What happens to the generations that are created next."""

        self.queue_full = queue_full
        """Creations that are still refused."""

        self.address = ""
        """HOST:PORT for clients, once it is started."""

        self.changed = threading.Condition()
        self.open_calls = 0
        """Handlers of calls that have not ended."""

        self._generations: dict[str, FakeGeneration] = {}
        self._by_request: dict[str, FakeGeneration] = {}
        self._stopping = False
        self._port = 0
        self._server: grpc.Server | None = None
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; at the same address as before where it was stopped."""
        self._stopping = False
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="vinf-fake-server")
        self._server = grpc.server(self._pool, options=[("grpc.max_receive_message_length", 16 * 1024 * 1024)])
        add_VideoGenerationServiceServicer_to_server(self, self._server)
        add_ServerInfoServiceServicer_to_server(self, self._server)
        health = HealthServicer()
        health.set(_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        add_HealthServicer_to_server(health, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self.address = f"127.0.0.1:{self._port}"
        self._server.start()

    def stop(self) -> None:
        """Break every connection and stop listening; generations are kept. A no-op the second time."""
        with self.changed:
            self._stopping = True
            self.changed.notify_all()
        if self._server is not None and self._pool is not None:
            self._server.stop(None).wait(_STOP_TIMEOUT)
            self._pool.shutdown()
            self._server = self._pool = None

    def restart(self) -> None:
        """Break every connection, and listen at the same address again."""
        self.stop()
        self.start()

    def reset(self, *, queue_full: int = 0, **script: Any) -> None:
        """Give the generations that are created from now on another script."""
        with self.changed:
            self.queue_full = queue_full
            self.script = replace(Script(), **script)

    def wait_for_calls(self, count: int, timeout: float = 10.0) -> bool:
        """Wait until so many calls are open; return whether they came to be."""
        with self.changed:
            return self.changed.wait_for(lambda: self.open_calls == count, timeout)

    # What handlers share

    def wait(self, seconds: float | None, context: grpc.ServicerContext) -> None:
        """Wait for a change, holding `changed`; end the call where nobody needs it any more."""
        self.changed.wait(seconds)
        if self._stopping:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the fake server was stopped")

    def is_open(self, context: grpc.ServicerContext) -> bool:
        """Whether the client of a call still listens."""
        return bool(context.is_active()) and not self._stopping

    @contextmanager
    def _call(self, context: grpc.ServicerContext) -> Iterator[None]:
        with self.changed:
            self.open_calls += 1
            self.changed.notify_all()
        context.add_callback(self._wake)
        try:
            yield
        finally:
            with self.changed:
                self.open_calls -= 1
                self.changed.notify_all()

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def _find(self, generation_id: str, context: grpc.ServicerContext) -> FakeGeneration:
        with self.changed:
            found = self._generations.get(generation_id)
        if found is None:
            refuse(
                context,
                grpc.StatusCode.NOT_FOUND,
                "GENERATION_NOT_FOUND",
                f"no generation has the id {generation_id!r}; it may have been deleted",
                metadata={"generationId": generation_id},
            )
        return found

    # The interface

    def GetServerInfo(  # noqa: N802
        self, request: info_pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> info_pb.GetServerInfoResponse:
        """Tell the limits."""
        with self.changed:
            running = sum(not generation.ended for generation in self._generations.values())
        info = info_pb.ServerInfo(
            version=package_version(),
            api_version="v1",
            ready=True,
            models=[MODEL],
            limits=LIMITS,
            ranks=[info_pb.RankInfo(rank=0, host="localhost", device="cpu", device_name="none")],
            running_generation_count=running,
        )
        info.server_time.FromNanoseconds(time.time_ns())
        return info_pb.GetServerInfoResponse(server_info=info)

    def CreateGeneration(  # noqa: N802
        self, request: service_pb.CreateGenerationRequest, context: grpc.ServicerContext
    ) -> service_pb.CreateGenerationResponse:
        """Accept a generation, or refuse it as the script says."""
        check_create(request, context)
        spec = resolve(request.spec)
        if request.validate_only:
            return service_pb.CreateGenerationResponse(generation=pb.Generation(resolved_spec=spec))
        with self.changed:
            known = self._by_request.get(request.request_id) if request.request_id else None
            is_refused = known is None and self.queue_full > 0
            if is_refused:
                self.queue_full -= 1
            elif known is None:
                made = FakeGeneration(f"fake-{uuid.uuid4()}", request, spec, self.script)
                self._generations[made.generation_id] = made
                self._by_request[request.request_id] = made
        if is_refused:
            message = "the queue is full; come back later"
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", message, retry_after=_RETRY_AFTER)
        if known is not None and known.request != request:
            message = f"the request id {request.request_id} belongs to another specification"
            refuse(context, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", message)
        with self.changed:
            generation = (known or made).message()
        return service_pb.CreateGenerationResponse(generation=generation, deduplicated=known is not None)

    def GetGeneration(  # noqa: N802
        self, request: service_pb.GetGenerationRequest, context: grpc.ServicerContext
    ) -> service_pb.GetGenerationResponse:
        """Return a snapshot."""
        return service_pb.GetGenerationResponse(generation=self._find(request.generation_id, context).message())

    def ListGenerations(  # noqa: N802
        self, request: service_pb.ListGenerationsRequest, context: grpc.ServicerContext
    ) -> service_pb.ListGenerationsResponse:
        """Return the newest first."""
        with self.changed:
            found = [made.message() for made in reversed(self._generations.values())]
        found = [message for message in found if not request.states or message.state in request.states]
        start = int(request.page_token or 0)
        stop = start + min(request.page_size or 50, 500)
        token = str(stop) if stop < len(found) else ""
        return service_pb.ListGenerationsResponse(generations=found[start:stop], next_page_token=token)

    def CancelGeneration(  # noqa: N802
        self, request: service_pb.CancelGenerationRequest, context: grpc.ServicerContext
    ) -> service_pb.CancelGenerationResponse:
        """End a generation."""
        generation = self._find(request.generation_id, context)
        with self.changed:
            generation.cancel()
            self.changed.notify_all()
        return service_pb.CancelGenerationResponse(generation=generation.message())

    def DeleteGeneration(  # noqa: N802
        self, request: service_pb.DeleteGenerationRequest, context: grpc.ServicerContext
    ) -> service_pb.DeleteGenerationResponse:
        """Forget a generation that has ended."""
        generation = self._find(request.generation_id, context)
        if not generation.ended:
            message = f"generation {request.generation_id} has not ended; cancel it first"
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", message)
        with self.changed:
            self._generations.pop(request.generation_id, None)
            self.changed.notify_all()
        return service_pb.DeleteGenerationResponse()

    def WatchGeneration(  # noqa: N802
        self, request: service_pb.WatchGenerationRequest, context: grpc.ServicerContext
    ) -> Iterator[service_pb.WatchGenerationResponse]:
        """Send a snapshot whenever something changed."""
        generation = self._find(request.generation_id, context)
        sequence, previewed, told = request.after_sequence, 0, None
        with self._call(context):
            while self.is_open(context):
                with self.changed:
                    message = generation.message()
                    events = [event for event in generation.events() if event.sequence > sequence]
                    previews = list(generation.previews(previewed)) if request.with_previews else []
                    news = (message.state, message.progress.SerializeToString(deterministic=True))
                    if news == told and not previews:
                        self.wait(generation.until_change(), context)
                        continue
                told, sequence = news, message.sequence
                previewed = previews[-1].completed_step_count if previews else previewed
                yield service_pb.WatchGenerationResponse(generation=message, events=events, previews=previews)
                if generation.ended and message.state == generation.state:
                    return

    def StreamFrames(  # noqa: N802
        self, request: service_pb.StreamFramesRequest, context: grpc.ServicerContext
    ) -> Iterator[service_pb.StreamFramesResponse]:
        """Send frames as they are made."""
        generation = self._find(request.generation_id, context)
        check_frames(request, generation, context)
        with self._call(context):
            yield from FakeStream(self, generation, request, context).messages()

    def GetTrace(  # noqa: N802
        self, request: service_pb.GetTraceRequest, context: grpc.ServicerContext
    ) -> Iterator[service_pb.GetTraceResponse]:
        """Tell what would have happened when."""
        generation = self._find(request.generation_id, context)
        with self._call(context):
            with self.changed:
                spans = list(generation.spans())
            yield service_pb.GetTraceResponse(spans=spans)

    def PullFrames(  # noqa: N802
        self, request: service_pb.PullFramesRequest, context: grpc.ServicerContext
    ) -> service_pb.PullFramesResponse:
        """Return the frames that are there, after a wait for the first one if it must be."""
        generation = self._find(request.generation_id, context)
        check_frames(request, generation, context)
        with self._call(context):
            return FakePull(self, generation, request, context).response()
