"""One server for all cases that leave it as it was."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.support.server import Server
from vinf.v1 import generation_pb2
from vinf.v1 import video_generation_service_pb2 as v1
from vinf.v1.server_info_service_pb2_grpc import ServerInfoServiceStub
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub

PROMPT = "a red ball bouncing over the sea"
TIMEOUT_S = 30
PENDING, RUNNING = generation_pb2.GENERATION_STATE_PENDING, generation_pb2.GENERATION_STATE_RUNNING
SUSPENDED = generation_pb2.GENERATION_STATE_SUSPENDED
SUCCEEDED, CANCELLED = generation_pb2.GENERATION_STATE_SUCCEEDED, generation_pb2.GENERATION_STATE_CANCELLED
NEVER_DONE = {"frame_count": 64, "inference_step_count": 200}
"""It takes longer than any of these tests."""

CANARY = {"frame_count": 16, "inference_step_count": 4, "seed": 78}
"""Made before everything else and again when everything has happened."""

SMALL_SHM = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    *('mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"),
)
"""Runs a command with next to no shared memory, as containers have it; needs root."""

UNLIMITED = ("--max-waiting-per-client", "0", "--max-creates-per-minute", "0")


@dataclass(frozen=True)
class Refusal:
    """How a call ended: its status, and what google.rpc details say."""

    code: grpc.StatusCode
    reason: str
    message: str
    violations: dict[str, str]
    metadata: dict[str, str]
    details_bytes: int


class Api:
    """Raw calls to a server: what a client in another language can send."""

    def __init__(self, server: Server) -> None:
        self.server = server
        options = (("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0))
        self.channel = grpc.insecure_channel(server.address, options=options)
        self.video = VideoGenerationServiceStub(self.channel)
        self.info = ServerInfoServiceStub(self.channel)
        self.canary: list[bytes] = []
        """The frames of `CANARY`, made first of all."""

    def create(self, *, spec: dict[str, object] | None = None, **fields: object) -> generation_pb2.Generation:
        request = v1.CreateGenerationRequest(
            spec=generation_pb2.GenerationSpec(**({"prompt": PROMPT, "frame_count": 8, "seed": 1} | (spec or {}))),
            **fields,
        )
        return self.video.CreateGeneration(request, timeout=TIMEOUT_S).generation

    def refused(self, **arguments: object) -> Refusal:
        """Create something that must be refused, and that must leave no generation behind."""
        before = self.newest_id()
        with pytest.raises(grpc.RpcError) as caught:
            self.create(**arguments)
        assert self.newest_id() == before, "a refused request left a generation behind"
        return refusal(caught.value)

    def newest_id(self) -> str:
        page = self.video.ListGenerations(v1.ListGenerationsRequest(page_size=1), timeout=TIMEOUT_S)
        return page.generations[0].generation_id if page.generations else ""

    def finish(self, generation_id: str) -> generation_pb2.Generation:
        """Wait for its end."""
        request = v1.WatchGenerationRequest(generation_id=generation_id)
        for message in self.video.WatchGeneration(request, timeout=120):
            newest = message.generation
        return newest

    def video_of(self, spec: dict[str, object]) -> list[bytes]:
        """Make a video and return its frames."""
        return self.frames(self.create(spec=spec, detached=True).generation_id)

    def frames(self, generation_id: str, start: int = 0) -> list[bytes]:
        """All frames from an index on; every one must be whole and in order."""
        request = v1.StreamFramesRequest(generation_id=generation_id, start_frame_index=start)
        found: list[bytes] = []
        slices = b""
        for message in self.video.StreamFrames(request, timeout=120):
            if message.WhichOneof("payload") != "frame":
                continue
            assert message.frame.frame_index == start + len(found)
            assert message.frame.data_offset_bytes == len(slices)
            slices += message.frame.data
            if len(slices) == message.frame.data_size_bytes:
                found.append(slices)
                slices = b""
        assert not slices
        return found


def refusal(error: grpc.RpcError) -> Refusal:
    """Read the details of an error."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status_pb2.Status.FromString(packed).details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return Refusal(
        code=error.code(),
        reason=info.reason,
        message=error.details() or "",
        violations={item.field: item.description for item in bad.field_violations},
        metadata=dict(info.metadata),
        details_bytes=len(packed),
    )


def state_of(api: Api, generation_id: str) -> generation_pb2.Generation:
    return api.video.GetGeneration(v1.GetGenerationRequest(generation_id=generation_id), timeout=TIMEOUT_S).generation


def until(condition: object, *, seconds: float, what: str) -> None:
    """Wait for something in another process: nothing to wait on but the clock."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def open_streams(api: Api, method: str) -> float:
    text = urllib.request.urlopen(api.server.metrics_url, timeout=10).read().decode()
    wanted = f'vinf_active_streams{{method="{method}"}}'
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted))


def cancel(api: Api, generation_id: str) -> generation_pb2.Generation:
    return api.video.CancelGeneration(
        v1.CancelGenerationRequest(generation_id=generation_id), timeout=TIMEOUT_S
    ).generation


def pull(api: Api, generation_id: str, start: int, **fields: object) -> v1.PullFramesResponse:
    request = v1.PullFramesRequest(generation_id=generation_id, start_frame_index=start, **fields)
    return api.video.PullFrames(request, timeout=TIMEOUT_S)


@pytest.fixture(scope="package")
def has_small_shm() -> bool:
    """Whether the shared server has hardly any shared memory."""
    return os.geteuid() == 0 and subprocess.run((*SMALL_SHM, "true"), capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="package")
def api(tmp_path_factory: pytest.TempPathFactory, has_small_shm: bool) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("cases")
    prefix = SMALL_SHM if has_small_shm else ()
    arguments = ("--ranks", "2", "--rank-weights", "even", "--max-waiting", "128", *UNLIMITED)
    with Server(folder, *arguments, prefix=prefix) as server:
        api = Api(server)
        api.canary = api.video_of(CANARY)
        yield api
        _, traceback, rest = server.log.read_text().partition("Traceback")
        assert not traceback, rest[:4000]


@pytest.fixture(scope="package")
def finished(api: Api) -> tuple[str, list[bytes]]:
    """A generation of 24 frames that has ended, and its frames."""
    generation_id = api.create(spec={"frame_count": 24, "inference_step_count": 2}, detached=True).generation_id
    assert api.finish(generation_id).state == SUCCEEDED
    frames = api.frames(generation_id)
    assert len(frames) == 24
    return generation_id, frames
