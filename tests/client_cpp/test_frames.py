"""Frames of a real front, pulled by the C++ client under both sanitizers."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from tests.client_cpp.conftest import BUILD_TIMEOUT_S
from vinf.v1 import frame_pb2, generation_pb2
from vinf.v1 import video_generation_service_pb2 as v1
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client import Client

pytestmark = [pytest.mark.process, pytest.mark.timeout(BUILD_TIMEOUT_S)]

RGB24, RGBA8, BGRA8, NV12 = 1, 2, 3, 4
RAW, JPEG, PNG = 1, 2, 3
KEPT_FRAMES = 64


@pytest.fixture(scope="module")
def video(front):
    return front.make(frames=40)


def test_every_frame_comes_once_in_order_as_the_python_client_gets_it(front, video, drive, tmp_path):
    out = tmp_path / "frames.rgb"
    outcome = drive("next", server=front.address, generation=video, out=out)
    assert outcome.status == "OK reason="
    assert outcome.indices == list(range(40))
    assert out.read_bytes() == b"".join(front.frames(video))
    assert outcome.stats["received"] == outcome.stats["shown"] == 40
    assert outcome.stats["bytes"] == 40 * 64 * 32 * 3
    assert not any(outcome.stats[name] for name in ("dropped", "lost", "reconnects", "damaged"))


def test_presentation_times_are_the_servers(front, video, drive_once):
    outcome = drive_once("next", server=front.address, generation=video)
    assert [int(entry[2]) for entry in outcome.pairs("frame")] == [index * 10**6 // 24 for index in range(40)]


def test_a_reader_may_start_anywhere(front, video, drive_once):
    assert drive_once("next", server=front.address, generation=video, start=37).indices == [37, 38, 39]
    assert drive_once("next", server=front.address, generation=video, start=40).indices == []


FORMATS = [
    {"pixels": RGBA8},
    {"pixels": BGRA8, "rows": 2, "align": 256},
    {"pixels": NV12, "align": 64},
    {"encoding": PNG},
    {"encoding": JPEG},
]


@pytest.mark.parametrize("wanted", FORMATS, ids=lambda wanted: "-".join(f"{k}{v}" for k, v in wanted.items()))
def test_formats_arrive_byte_by_byte(front, video, drive_once, tmp_path, wanted):
    out = tmp_path / "frames"
    outcome = drive_once("next", server=front.address, generation=video, out=out, **wanted)
    output = frame_pb2.OutputFormat(
        encoding=wanted.get("encoding", RAW),
        pixel_format=wanted.get("pixels", RGB24),
        row_order=wanted.get("rows", 1),
        row_alignment_bytes=wanted.get("align", 1),
    )
    reply = front.pull(v1.PullFramesRequest(generation_id=video, max_frames=64, output_format=output))
    assert out.read_bytes() == b"".join(frame.data for frame in reply.frames)
    planes = reply.format.planes
    strides = {tuple(map(int, entry[3:])) for entry in outcome.pairs("frame")}
    assert strides == ({(planes[0].stride_bytes, planes[0].row_count)} if planes else {(0, 0)})


def test_frames_above_the_message_limit_come_in_slices(front, drive, tmp_path):
    """1080p BGRA8 has 8 294 400 bytes: two messages of the default size for engines."""
    large = front.make(frames=3, width=1920, height=1080)
    out = tmp_path / "frames.bgra"
    outcome = drive("next", server=front.address, generation=large, pixels=BGRA8, max_message=4128768, out=out)
    assert outcome.indices == [0, 1, 2]
    rgb = np.frombuffer(b"".join(front.frames(large)), np.uint8).reshape(3, 1080, 1920, 3)
    bgra = np.frombuffer(out.read_bytes(), np.uint8).reshape(3, 1080, 1920, 4)
    assert np.array_equal(bgra[..., 2::-1], rgb)
    assert (bgra[..., 3] == 255).all()
    whole = drive("next", server=front.address, generation=large, pixels=BGRA8)
    assert whole.indices == [0, 1, 2]


def test_many_small_slices(front, drive_once, tmp_path):
    video = front.make(frames=4, width=512, height=256)
    out = tmp_path / "frames.rgb"
    outcome = drive_once("next", server=front.address, generation=video, max_message=65536, out=out)
    assert outcome.indices == [0, 1, 2, 3]
    assert out.read_bytes() == b"".join(front.frames(video))


def test_frames_come_while_they_are_made(start_front, drive_once):
    front = start_front()
    front.hold_from(10)
    generation = front.make(frames=20, wait=False)
    running = drive_once.start("next", server=front.address, generation=generation)
    running.wait_for("frame 9 ")
    with_state = front.pull(v1.PullFramesRequest(generation_id=generation))
    assert with_state.state == generation_pb2.GENERATION_STATE_RUNNING, "the first frames were there before the last"
    front.let_go()
    assert running.end().indices == list(range(20))


def create(front, **terms) -> str:
    """A generation that the Python client has no words for."""
    spec = generation_pb2.GenerationSpec(prompt="a red circle", width=64, height=32, seed=5, frame_count=200)
    with grpc.insecure_channel(front.address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        stub = VideoGenerationServiceStub(channel)
        request = v1.CreateGenerationRequest(spec=spec, **({"detached": True} | terms))
        generation_id: str = stub.CreateGeneration(request, timeout=30).generation.generation_id
    return generation_id


def wait_for_end(front, generation_id: str) -> str:
    with Client(front.address) as client:
        return str(client.attach(generation_id).wait(timeout=60).state)


@pytest.fixture
def dropping(front) -> str:
    """A generation of 200 frames of which the last 64 are kept."""
    terms = {"retention_frame_count": KEPT_FRAMES, "overflow_policy": generation_pb2.OVERFLOW_POLICY_DROP_OLDEST}
    generation_id = create(front, **terms)
    assert wait_for_end(front, generation_id) == "succeeded"
    return generation_id


def test_evicted_frames_are_left_out_and_counted(front, dropping, drive):
    outcome = drive("next", server=front.address, generation=dropping)
    assert outcome.status == "OK reason="
    assert outcome.indices == list(range(200 - KEPT_FRAMES, 200))
    assert outcome.stats["lost"] == 200 - KEPT_FRAMES


def test_evicted_frames_end_a_reader_that_wants_all(front, dropping, drive_once):
    outcome = drive_once("next", "--no-skip", server=front.address, generation=dropping)
    assert outcome.status == "OUT_OF_RANGE reason=FRAME_EVICTED"
    assert f"firstAvailableFrameIndex={200 - KEPT_FRAMES}" in outcome.all("metadata")


def test_playback_goes_on_behind_what_was_evicted(front, dropping, drive_once):
    outcome = drive_once("latest", server=front.address, generation=dropping, fps=100)
    shown = [int(entry[0]) for entry in outcome.pairs("show")]
    assert shown[0] == 200 - KEPT_FRAMES
    assert shown[-1] == 199
    assert shown == sorted(set(shown))


def test_a_window_that_blocks_is_released_by_who_reads(front, drive_once):
    terms = {"retention_frame_count": KEPT_FRAMES, "overflow_policy": generation_pb2.OVERFLOW_POLICY_BLOCK}
    generation_id = create(front, detached=False, **terms)
    outcome = drive_once("next", "--release", server=front.address, generation=generation_id)
    assert outcome.indices == list(range(200))
    assert wait_for_end(front, generation_id) == "succeeded"


def test_a_failed_generation_says_why_after_its_frames(front, drive_once):
    with Client(front.address) as client:
        handle = client.submit("a red circle fail", frames=8, detached=True)
        outcome = drive_once("next", server=front.address, generation=handle.generation_id)
    assert outcome.indices == [0]
    assert outcome.status.endswith("reason=OUTPUT_INVALID")
    assert outcome.one("message")
