"""Case 67: a network that is late, slow, cut off, silent, or brings crumbs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

import grpc
import pytest

from tests.cases.conftest import TIMEOUT_S, Api
from tests.chaos.proxy import Proxy, Weather
from vinf.v1 import video_generation_service_pb2 as v1
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client import Client

pytestmark = pytest.mark.process

IMPATIENT = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    # While frames flow gRPC pings to measure the line, and sends no other ping before that one is answered.
    ("grpc.http2.ping_timeout_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
)
"""A client that takes two seconds of silence for a broken line."""


class Line:
    """A proxy in front of the server, on a loop of its own."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self.proxy = Proxy((host, int(port)))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self.proxy.start())

    def set_weather(self, weather: Weather) -> None:
        self._loop.call_soon_threadsafe(self.proxy.set_weather, weather)

    def reset(self) -> int:
        """Cut every connection; returns how many there were."""
        return self._do(self.proxy.reset())

    def close(self) -> None:
        self._do(self.proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, work):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@pytest.fixture
def line(api: Api) -> Iterator[Line]:
    line = Line(api.server.address)
    try:
        yield line
    finally:
        line.close()


@pytest.mark.parametrize(
    ("weather", "start"),
    [
        (Weather(delay_s=0.2), 0),
        (Weather(bytes_per_s=125_000), 0),
        (Weather(piece_bytes=1), 22),
    ],
    ids=["200 ms later", "1 Mbit/s", "bytes one by one"],
)
def test_case_67_frames_through_a_bad_network(
    line: Line, finished: tuple[str, list[bytes]], weather: Weather, start: int
) -> None:
    line.set_weather(weather)
    with Client(line.proxy.address, connect_timeout=TIMEOUT_S) as client:
        frames = client.attach(finished[0]).frames(start=start)
        assert [frame.data for frame in frames] == finished[1][start:]


def test_case_67_cut_off_in_the_middle_of_frames(line: Line, finished: tuple[str, list[bytes]]) -> None:
    """Each connection is reset with half a frame or more on its way, three times."""
    line.set_weather(Weather(bytes_per_s=200_000))
    got: list[bytes] = []
    breaks: list[Exception] = []
    with Client(line.proxy.address, connect_timeout=TIMEOUT_S) as client:
        for frame in client.attach(finished[0]).frames(prefetch=0, on_wait=breaks.append):
            got.append(frame.data)
            if len(got) in (2, 6, 10):
                assert line.reset() >= 1
    assert got == finished[1]
    assert len(breaks) >= 3


def test_case_67_a_line_that_falls_silent(line: Line, finished: tuple[str, list[bytes]]) -> None:
    """Nothing passes and nothing is closed: keepalive finds it, and the stream goes on where it broke off."""
    line.set_weather(Weather(bytes_per_s=200_000))
    got: list[bytes] = []
    with grpc.insecure_channel(line.proxy.address, options=IMPATIENT) as channel:
        video = VideoGenerationServiceStub(channel)
        while len(got) < 8:  # a busy machine may keep it waiting for a second, too
            with pytest.raises(grpc.RpcError) as broken:
                read(video, finished[0], got, on_frame=lambda: len(got) == 8 and line.set_weather(Weather(silent=True)))
        assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
        assert 8 <= len(got) < len(finished[1])
        line.set_weather(Weather())
        for _ in range(5):
            # So impatient a client may lose a connection that it opened in the silence, too, and comes again.
            with contextlib.suppress(grpc.RpcError):
                read(video, finished[0], got)
                break
    assert got == finished[1]


def read(
    video: VideoGenerationServiceStub, generation_id: str, got: list[bytes], on_frame: Callable[[], object] = bool
) -> None:
    """Read the frames that are missing, each whole and in order."""
    request = v1.StreamFramesRequest(generation_id=generation_id, start_frame_index=len(got))
    part = b""
    for message in video.StreamFrames(request, timeout=TIMEOUT_S, wait_for_ready=True):
        if message.WhichOneof("payload") != "frame":
            continue
        assert (message.frame.frame_index, message.frame.data_offset_bytes) == (len(got), len(part))
        part += message.frame.data
        if len(part) == message.frame.data_size_bytes:
            got.append(part)
            part = b""
            on_frame()
