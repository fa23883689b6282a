"""One server for all cases that leave it as it was."""

from __future__ import annotations

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


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("cases")
    with Server(folder, "--ranks", "2", "--max-waiting", "128", *UNLIMITED) as server:
        yield Api(server)
        assert "Traceback" not in server.log.read_text(), server.log.read_text()
