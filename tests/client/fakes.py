"""A real gRPC server with scripted behaviour."""

import threading
from collections import Counter, deque
from concurrent import futures
from dataclasses import dataclass, field

import google_crc32c
import grpc
import numpy as np
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from vinf.v1 import frame_pb2
from vinf.v1 import generation_pb2 as pb
from vinf.v1 import server_info_service_pb2 as info_pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf.v1.server_info_service_pb2_grpc import ServerInfoServiceServicer, add_ServerInfoServiceServicer_to_server
from vinf.v1.video_generation_service_pb2_grpc import (
    VideoGenerationServiceServicer,
    add_VideoGenerationServiceServicer_to_server,
)

ID = "gen-1"


@dataclass
class Failure:
    """A status to answer with."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "a message for people"
    violations: tuple = ()
    retry_after: float | None = None
    metadata: dict = field(default_factory=dict)

    def abort(self, context):
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        details = []
        if self.reason:
            details.append(error_details_pb2.ErrorInfo(reason=self.reason, domain="vinf", metadata=self.metadata))
        if self.violations:
            entries = [
                error_details_pb2.BadRequest.FieldViolation(field=name, description=text)
                for name, text in self.violations
            ]
            details.append(error_details_pb2.BadRequest(field_violations=entries))
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(self.retry_after * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        if details:
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(self.code, self.message)


@dataclass
class Break:
    """The stream of frames breaks off: after so many whole frames, and a part of the next one."""

    frames: int
    part_bytes: int = 0
    failure: Failure | None = field(default_factory=lambda: Failure(grpc.StatusCode.UNAVAILABLE, message="broke"))


class FakeServer(VideoGenerationServiceServicer, ServerInfoServiceServicer):
    """Serves one generation; what it answers is set through its attributes, until `reset`."""

    def __init__(self):
        self.reset()
        self.port = 0
        self._start()
        self.address = f"127.0.0.1:{self.port}"

    def _start(self):
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        add_VideoGenerationServiceServicer_to_server(self, self._server)
        add_ServerInfoServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def restart(self):
        """Break every connection, and listen at the same address again."""
        assert self._server.stop(None).wait(10)
        self._start()

    def reset(self):
        self.width, self.height, self.frame_count = 20, 10, 7
        self.info = _server_info()
        self.create_failures = deque()
        self.create_replies = deque()  # (state, deduplicated)
        self.validate_failure = None
        self.info_failures = deque()
        self.breaks = deque()
        self.gaps = {}  # the frame that comes next, by the first one that is left out
        self.damages = Counter()  # how often a frame is sent with a wrong checksum
        self.slice_bytes = 0
        self.extra_messages = []
        self.ends = deque()
        self.get_failure = None
        self.watch_breaks = deque()
        self.state = pb.GENERATION_STATE_SUCCEEDED
        self.error = None
        self.state_reason = ""
        self.available = (0, None)  # frames that are there: from the first up to, all when None
        self.labels = {}
        self.end_time = None
        self.events = []
        self.delete_failures = {}
        self.deletes, self.watches = [], []
        self.clips = ()
        self.segments = ()
        self.image_conditions = ()
        self.scope = None
        self.solver = pb.SOLVER_DDIM
        self.hold_after = None
        self.holding = threading.Event()
        self.released = threading.Event()
        self.cancelled = threading.Event()
        self.stream_ended = threading.Event()
        self.pages = None
        self.creates, self.streams, self.lists = [], [], []

    def stop(self):
        self.released.set()
        self._server.stop(None).wait(10)

    def video(self):
        """The frames ``[F, H, W, 3]`` this server serves."""
        generator = np.random.default_rng(0)
        return generator.integers(0, 256, (self.frame_count, self.height, self.width, 3), dtype=np.uint8)

    def generation(self, state=None):
        spec = pb.GenerationSpec(
            model="sprites",
            prompt="a red ball",
            width=self.width,
            height=self.height,
            frame_count=self.frame_count,
            frame_rate=pb.Rational(num=12, den=1),
            seed=77,
            inference_step_count=20,
            guidance_scale=7.5,
            solver=self.solver,
            prompt_segments=self.segments,
            image_conditions=self.image_conditions,
            temporal_scope=self.scope,
        )
        progress = pb.GenerationProgress(
            stage=pb.GENERATION_STAGE_DECODE,
            completed_step_count=20,
            step_count=20,
            completed_frame_count=self.next_frame() - self.available[0],
            frame_count=self.frame_count,
        )
        return pb.Generation(
            generation_id=ID,
            state=self.state if state is None else state,
            resolved_spec=spec,
            progress=progress,
            error=self.error,
            clips=[pb.Clip(start_frame_index=start, frame_count=count) for start, count in self.clips],
            peak_rank_memory_bytes=[1000 for _ in self.clips],
            state_reason=self.state_reason,
            priority=5,
            labels=self.labels,
            end_time=self.end_time,
            sequence=len(self.events),
            first_available_frame_index=self.available[0],
            next_frame_index=self.next_frame(),
        )

    def next_frame(self):
        end = self.available[1]
        return self.frame_count if end is None else end

    def GetServerInfo(self, request, context):
        if self.info_failures:
            self.info_failures.popleft().abort(context)
        return info_pb.GetServerInfoResponse(server_info=self.info)

    def CreateGeneration(self, request, context):
        self.creates.append(request)
        if request.validate_only:
            if self.validate_failure is not None:
                self.validate_failure.abort(context)
            return service_pb.CreateGenerationResponse()
        if self.create_failures:
            self.create_failures.popleft().abort(context)
        usual = (pb.GENERATION_STATE_PENDING, False)
        state, deduplicated = self.create_replies.popleft() if self.create_replies else usual
        return service_pb.CreateGenerationResponse(generation=self.generation(state), deduplicated=deduplicated)

    def GetGeneration(self, request, context):
        self._check(request, context)
        if self.get_failure is not None:
            self.get_failure.abort(context)
        return service_pb.GetGenerationResponse(generation=self.generation())

    def ListGenerations(self, request, context):
        self.lists.append(request)
        if self.pages is None:
            return service_pb.ListGenerationsResponse(generations=[self.generation()])
        page = int(request.page_token or 0)
        token = str(page + 1) if page + 1 < len(self.pages) else ""
        entries = [pb.Generation(generation_id=name) for name in self.pages[page]]
        return service_pb.ListGenerationsResponse(generations=entries, next_page_token=token)

    def CancelGeneration(self, request, context):
        self._check(request, context)
        self.cancelled.set()
        return service_pb.CancelGenerationResponse(generation=self.generation(pb.GENERATION_STATE_CANCELLED))

    def DeleteGeneration(self, request, context):
        self.deletes.append(request.generation_id)
        if request.generation_id in self.delete_failures:
            self.delete_failures[request.generation_id].abort(context)
        self._check(request, context)
        return service_pb.DeleteGenerationResponse()

    def WatchGeneration(self, request, context):
        self._check(request, context)
        self.watches.append(request.after_sequence)
        wanted = [event for event in self.events if event.sequence > request.after_sequence]
        yield service_pb.WatchGenerationResponse(
            generation=self.generation(pb.GENERATION_STATE_RUNNING), events=wanted[:2]
        )
        if self.watch_breaks:
            self.watch_breaks.popleft().abort(context)
        if self.hold_after is not None:
            self._hold(context)
        yield service_pb.WatchGenerationResponse(generation=self.generation(), events=wanted[2:])

    def StreamFrames(self, request, context):
        self._check(request, context)
        self.streams.append(request)
        context.add_callback(self.stream_ended.set)
        script = self.breaks.popleft() if self.breaks else None
        yield service_pb.StreamFramesResponse(header=self._header())
        yield from self.extra_messages
        for count, index in enumerate(range(request.start_frame_index, self.frame_count)):
            if index >= self.next_frame():
                break
            if any(first <= index < following for first, following in self.gaps.items()):
                if index in self.gaps:
                    gap = service_pb.FrameGap(
                        first_missing_frame_index=index, next_frame_index=self.gaps[index], reason="FRAME_EVICTED"
                    )
                    yield service_pb.StreamFramesResponse(gap=gap)
                continue
            data = self.video()[index].tobytes()
            if script is not None and count == script.frames:
                if script.part_bytes:
                    yield self._slice(index, data, 0, script.part_bytes)
                if script.failure is not None:
                    script.failure.abort(context)
                return
            if self.hold_after == index:
                self._hold(context)
            step = self.slice_bytes or len(data)
            for offset in range(0, len(data), step):
                yield self._slice(index, data, offset, step)
        end = (
            self.ends.popleft()
            if self.ends
            else service_pb.StreamEnd(state=pb.GENERATION_STATE_SUCCEEDED, next_frame_index=self.frame_count)
        )
        yield service_pb.StreamFramesResponse(end=end)

    def GetTrace(self, request, context):
        self._check(request, context)
        yield service_pb.GetTraceResponse()

    def _check(self, request, context):
        if request.generation_id != ID:
            Failure(grpc.StatusCode.NOT_FOUND, "GENERATION_NOT_FOUND", "no such generation").abort(context)

    def _hold(self, context):
        self.holding.set()
        if not context.add_callback(self.released.set):  # the reader left already
            self.released.set()
        assert self.released.wait(20)

    def _header(self):
        return frame_pb2.VideoFormat(
            width=self.width,
            height=self.height,
            frame_rate=pb.Rational(num=12, den=1),
            pixel_format=frame_pb2.PIXEL_FORMAT_RGB24,
            frame_size_bytes=self.width * self.height * 3,
            frame_count=self.frame_count,
        )

    def _checksum(self, index, data):
        is_damaged = self.damages[index] > 0
        self.damages[index] -= is_damaged
        return google_crc32c.value(data) ^ is_damaged

    def _slice(self, index, data, offset, size):
        return service_pb.StreamFramesResponse(
            frame=frame_pb2.Frame(
                frame_index=index,
                data_offset_bytes=offset,
                data_size_bytes=len(data),
                crc32c=self._checksum(index, data) if offset + size >= len(data) else -1,
                data=data[offset : offset + size],
            )
        )


def _server_info():
    scope = pb.TemporalScope(
        mode=pb.TEMPORAL_SCOPE_MODE_CUSTOM, local_window_frames=16, global_frames=8, phase_timestep=500, phase_bias=1.5
    )
    model = info_pb.ModelInfo(
        name="sprites",
        default_width=64,
        default_height=64,
        min_width=32,
        max_width=128,
        min_height=32,
        max_height=128,
        size_multiple=8,
        default_frame_count=16,
        max_frame_count=4096,
        trained_frame_count=16,
        default_frame_rate=pb.Rational(num=12, den=1),
        default_step_count=20,
        default_guidance_scale=7.5,
        default_solver=pb.SOLVER_DDIM,
        default_temporal_scope=scope,
        max_prompt_chars=200,
        frame_count_step=1,
        solvers=[pb.SOLVER_DDIM, pb.SOLVER_DPM_SOLVER_PP_2M],
    )
    limits = info_pb.ServerLimits(
        max_waiting_generation_count=4,
        max_data_bytes=67108864,
        max_step_count=200,
        max_guidance_scale=50,
        max_global_frames=256,
    )
    rank = info_pb.RankInfo(rank=0, host="here", pid=12, device="cpu", device_name="CPU", memory_total_bytes=2**30)
    return info_pb.ServerInfo(version="0.1.0", api_version="1", ready=True, models=[model], limits=limits, ranks=[rank])
