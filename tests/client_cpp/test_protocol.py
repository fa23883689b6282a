"""What a server may answer, and what it must not: a scripted one, driven to every corner of PullFrames."""

from __future__ import annotations

from collections import deque

import google_crc32c
import grpc
import pytest

from tests.client.fakes import ID, Failure, FakeServer
from tests.client_cpp.conftest import BUILD_TIMEOUT_S
from vinf.v1 import frame_pb2, generation_pb2
from vinf.v1 import video_generation_service_pb2 as v1

pytestmark = [pytest.mark.process, pytest.mark.timeout(BUILD_TIMEOUT_S)]

REVISION = 9


class PullServer(FakeServer):
    """Pulls of the frames of `FakeServer.video`; `answers` are functions that take the place of the next replies."""

    def reset(self):
        super().reset()
        self.pulls = []
        self.answers = deque()
        self.spoil = None
        """Called with every reply before it is sent."""

    def format(self):
        stride = self.width * 3
        return frame_pb2.VideoFormat(
            width=self.width,
            height=self.height,
            frame_rate=generation_pb2.Rational(num=12, den=1),
            pixel_format=frame_pb2.PIXEL_FORMAT_RGB24,
            frame_size_bytes=stride * self.height,
            frame_count=self.frame_count,
            encoding=frame_pb2.FRAME_ENCODING_RAW,
            row_order=frame_pb2.ROW_ORDER_TOP_DOWN,
            planes=[frame_pb2.Plane(stride_bytes=stride, row_bytes=stride, row_count=self.height)],
            format_revision=REVISION,
        )

    def PullFrames(self, request, context):
        self.pulls.append(request)
        if self.answers:
            answer = self.answers.popleft()(request, context)
            if answer is not None:
                return answer
        data = self.video()[request.start_frame_index].tobytes()
        begin = request.start_byte_offset
        end = min(len(data), begin + (self.slice_bytes or len(data)))
        is_whole = end == len(data)
        frame = frame_pb2.Frame(
            frame_index=request.start_frame_index,
            data_offset_bytes=begin,
            data_size_bytes=len(data),
            crc32c=google_crc32c.value(data) if is_whole else -1,
            format_revision=REVISION,
            data=data[begin:end],
        )
        reply = v1.PullFramesResponse(
            frames=[frame],
            next_frame_index=request.start_frame_index + is_whole,
            next_byte_offset=0 if is_whole else end,
            end_of_stream=is_whole and request.start_frame_index + 1 == self.frame_count,
        )
        if request.known_format_revision != REVISION:
            reply.format.CopyFrom(self.format())
        if self.spoil is not None:
            self.spoil(reply)
        return reply


@pytest.fixture
def server():
    fake = PullServer()
    yield fake
    fake.stop()


@pytest.fixture
def pull(server, drive_once, tmp_path):
    """Run the driver against the script; returns its outcome and the bytes it got."""

    def run(*arguments, **options):
        out = tmp_path / "frames"
        outcome = drive_once("next", *arguments, server=server.address, generation=ID, out=out, **options)
        return outcome, out.read_bytes()

    return run


def failing(failure):
    return lambda request, context: failure.abort(context)


def test_slices_go_on_where_a_broken_call_left_them(server, pull):
    server.slice_bytes = 250
    for position in (2, 5, 6):
        server.answers += [lambda *_: None] * position
        server.answers.append(failing(Failure(grpc.StatusCode.UNAVAILABLE)))
    outcome, data = pull()
    assert data == server.video().tobytes()
    assert outcome.stats["reconnects"] == 3
    assert {request.start_byte_offset for request in server.pulls} == {0, 250, 500}


def test_a_frame_that_arrives_damaged_is_pulled_again(server, pull):
    flipped = []

    def flip(reply):
        frame = reply.frames[0]
        if frame.frame_index == 3 and len(flipped) < 2:
            flipped.append(frame.frame_index)
            frame.data = bytes([frame.data[0] ^ 1]) + frame.data[1:]

    server.spoil = flip
    outcome, data = pull()
    assert data == server.video().tobytes()
    assert outcome.stats["damaged"] == 2
    assert outcome.stats["received"] == server.frame_count


def test_a_frame_that_is_always_damaged_ends_the_reader(server, pull):
    def flip(reply):
        reply.frames[0].data = b"x" * len(reply.frames[0].data)

    server.spoil = flip
    outcome, data = pull(attempts=2)
    assert data == b""
    assert outcome.stats["damaged"] == 3
    assert "arrived damaged" in outcome.one("message")


def test_a_server_that_drains_is_asked_again(server, pull):
    error = generation_pb2.GenerationError(code=14, reason="SERVER_DRAINING", message="shutting down")
    server.answers += [
        lambda *_: None,
        lambda request, _: v1.PullFramesResponse(next_frame_index=request.start_frame_index, error=error),
    ]
    outcome, data = pull()
    assert data == server.video().tobytes()
    assert outcome.stats["reconnects"] == 1


def test_a_server_that_stays_away_is_given_up(server, pull):
    server.answers += [failing(Failure(grpc.StatusCode.UNAVAILABLE))] * 100
    outcome, _ = pull(attempts=3)
    assert outcome.status == "UNAVAILABLE reason="
    assert outcome.stats["reconnects"] == 3


@pytest.mark.parametrize("skips", [True, False])
def test_frames_the_servers_disk_has_lost(server, pull, skips):
    lost = Failure(grpc.StatusCode.DATA_LOSS, "FRAME_DAMAGED", metadata={"frameIndex": "2"})

    def lose(request, context):
        if request.start_frame_index <= 2 < request.start_frame_index + request.max_frames:
            lost.abort(context)

    server.answers += [lose] * 1000
    outcome, data = pull(*([] if skips else ["--no-skip"]))
    if skips:
        assert outcome.indices == [0, 1, 3, 4, 5, 6]
        assert outcome.stats["lost"] == 1
    else:
        assert outcome.indices == [0, 1]
        assert outcome.status == "DATA_LOSS reason=FRAME_DAMAGED"
    video = server.video()
    assert data == b"".join(video[index].tobytes() for index in outcome.indices)


def test_nothing_yet_is_asked_for_again(server, pull):
    def nothing(request, _):
        return v1.PullFramesResponse(
            next_frame_index=request.start_frame_index, latest_frame_index=-1, format=server.format()
        )

    server.answers += [nothing] * 5
    outcome, data = pull()
    assert data == server.video().tobytes()
    assert outcome.stats["reconnects"] == 0


def set_field(name, value):
    return lambda reply: setattr(reply.frames[0], name, value)


WRONG = {
    "another frame": set_field("frame_index", 4),
    "another format": set_field("format_revision", REVISION + 1),
    "a hole in the frame": set_field("data_offset_bytes", 10),
    "another size": set_field("data_size_bytes", 601),
    "more than fits": set_field("data", b"x" * 601),
    "nothing": set_field("data", b""),
    "no format": lambda reply: reply.ClearField("format"),
    "a plane beyond the frame": lambda reply: setattr(reply.format.planes[0], "row_count", 11),
    "a negative stride": lambda reply: setattr(reply.format.planes[0], "stride_bytes", -60),
    "an offset that overflows": lambda reply: setattr(reply.format.planes[0], "offset_bytes", 2**63 - 1),
    "no planes": lambda reply: reply.format.ClearField("planes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_server_may_send_ends_the_reader(server, pull, name):
    server.spoil = WRONG[name]
    outcome, data = pull()
    assert outcome.status == "INTERNAL reason=PROTOCOL"
    assert data == b""


def test_details_of_errors_are_read(server, drive_once):
    server.create_failures.append(
        Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=1.5, metadata={"waiting": "64"})
    )
    outcome = drive_once("create", server=server.address, prompt="a red ball")
    assert outcome.status == "RESOURCE_EXHAUSTED reason=QUEUE_FULL"
    assert outcome.one("retry_after_ms") == "1500"
    assert outcome.all("metadata") == ["waiting=64"]


def test_a_full_queue_is_waited_for(server, drive_once):
    server.create_failures += [Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=0.05)] * 2
    outcome = drive_once("create", server=server.address, prompt="a red ball", patience_ms=30_000)
    assert outcome.status == "OK reason="
    assert len({request.request_id for request in server.creates}) == 1
    assert len(server.creates) == 3


def test_a_call_that_was_lost_is_made_again(server, drive_once):
    server.create_failures.append(Failure(grpc.StatusCode.UNAVAILABLE))
    assert drive_once("create", server=server.address, prompt="a red ball").status == "OK reason="
    assert server.creates[0].request_id == server.creates[1].request_id


def test_details_of_a_stranger_do_not_hide_the_failure(server, drive_once):
    """A proxy's garbage in the place of google.rpc.Status."""

    def garble(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "not\nfor you")

    server.answers.append(garble)
    outcome = drive_once("next", server=server.address, generation=ID)
    assert outcome.status == "PERMISSION_DENIED reason="
    assert outcome.one("message") == "not for you"
