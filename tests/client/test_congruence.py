"""The fake server behaves as the real one does: one suite, both servers, both clients."""

import io
import uuid
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from tests.client.blocking import BlockingClient
from vinf_client import (
    Client,
    GenerationCancelledError,
    GenerationNotFoundError,
    GenerationState,
    ImageCondition,
    ImageFrames,
    InvalidRequestError,
    ModelNotFoundError,
    RequestIdReusedError,
    RpcTimeoutError,
    TraceLane,
    WrongStateError,
)
from vinf_client.testing import FakeServer

COUNT = 8
WANTED = {"frames": COUNT, "width": 64, "height": 64, "seed": 7, "steps": 2, "fps": 12}
PROMPT = "a red ball"


@pytest.fixture(scope="module")
def fake_server():
    with FakeServer() as server:
        yield server


@pytest.fixture(params=[pytest.param("fake", marks=pytest.mark.fast), pytest.param("real", marks=pytest.mark.process)])
def server(request):
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture(params=[Client, BlockingClient], ids=["sync", "async"])
def client(request, server):
    with request.param(server.address, token="", tls=False) as made:
        yield made


@pytest.fixture
def long(server):
    """What makes a generation last; the fake server has to be told."""
    if isinstance(server, FakeServer):
        server.reset(step_seconds=1)
    yield {**WANTED, "frames": 64, "steps": 200}
    if isinstance(server, FakeServer):
        server.reset()


@pytest.fixture
def handle(client):
    """A generation that succeeded."""
    made = client.submit(PROMPT, **WANTED)
    made.wait(60)
    return made


def test_a_video_from_prompt_to_pixels(client):
    with client.generate(PROMPT, **WANTED) as video:
        assert (len(video), video.width, video.height, video.frame_rate) == (COUNT, 64, 64, 12)
        frames = list(video)
    assert [frame.index for frame in frames] == list(range(COUNT))
    assert all(frame.to_numpy().shape == (64, 64, 3) for frame in frames)
    assert frames[1].presentation_time.total_seconds() == pytest.approx(1 / 12, abs=1e-6)
    assert video.handle.wait(60).state is GenerationState.SUCCEEDED


def test_images_that_the_model_does_not_take(client):
    assert client.info().models[0].image_frames is ImageFrames.NONE
    with pytest.raises(InvalidRequestError, match=r"image_conditions: model '\w+' takes no images, got 1"):
        client.submit(PROMPT, **WANTED, image_conditions=[ImageCondition(0, np.zeros((8, 8, 3), np.uint8))])


def test_a_part_of_it(handle):
    whole = [frame.data for frame in handle.frames()]
    assert [frame.index for frame in handle.frames(2, stop=5)] == [2, 3, 4]
    assert [frame.data for frame in handle.frames(5, prefetch=0)] == whole[5:]
    assert list(handle.frames(COUNT)) == []
    assert list(handle.frames(3, stop=3)) == []


def test_pulls_bring_the_same_bytes(handle):
    whole = [frame.data for frame in handle.frames()]
    with handle.pull() as puller:
        assert [puller.next(20).data for _ in range(COUNT)] == whole
        assert puller.next(20) is None
        assert puller.ended
    with handle.pull(2, stop=4) as puller:
        assert [frame.index for frame in puller] == [2, 3]


def test_the_newest_only(handle):
    (frame,) = handle.frames(latency="low")
    assert frame.index == COUNT - 1
    with handle.pull(latency="low") as puller:
        assert puller.next(20).index == COUNT - 1
        assert puller.next(20) is None


@pytest.mark.parametrize(
    ("name", "off"), [("rgb24", 0), ("rgba8", 0), ("bgra8", 0), ("png", 0), ("jpeg", 40), ("nv12", 60)]
)
def test_formats(handle, name, off):
    pixels = next(iter(handle.frames(format="rgb24"))).to_rgb().astype(int)
    for frames in (handle.frames(0, stop=1, format=name), handle.pull(0, stop=1, format=name)):
        (frame,) = list(frames)
        assert frame.format == name
        assert np.abs(frame.to_rgb() - pixels).max() <= off
        assert np.abs(frame.to_rgb() - pixels).mean() <= off / 8


def test_it_fits_the_file_formats(handle, tmp_path):
    assert handle.save(tmp_path / "a.npy") == tmp_path / "a.npy"
    whole = np.stack(list(handle.frames()))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), whole)
    handle.save(tmp_path / "pictures", start=6)
    names = sorted(entry.name for entry in (tmp_path / "pictures").iterdir())
    assert names == ["frame_000006.png", "frame_000007.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "pictures" / names[0])), whole[6])
    handle.save(tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"


def test_snapshots_and_events(client):
    updates = list(client.submit(PROMPT, **WANTED, labels={"a": "b"}, priority=7).updates())
    last = updates[-1].generation
    assert (last.state, last.labels, last.priority) == (GenerationState.SUCCEEDED, {"a": "b"}, 7)
    assert (last.progress.completed_frame_count, last.progress.completed_step_count) == (COUNT, 2)
    assert (last.next_frame_index, last.first_available_frame_index) == (COUNT, 0)
    events = [event for update in updates for event in update.events]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.state.value for event in events] == ["pending", "running", "succeeded"]
    assert last.sequence == 3


def test_previews_come_where_they_were_asked_for(client, long):
    """They are there only while a generation runs, so it runs until the test has seen what it wants."""
    handle = client.submit(PROMPT, **long, preview_every=1)
    previews = []
    with closing(handle.updates(previews=True)) as asking:
        while not previews:
            previews += next(asking).previews
    assert all(Image.open(io.BytesIO(preview.jpeg)).size == (preview.width, preview.height) for preview in previews)
    with closing(handle.updates()) as not_asking:
        assert not next(not_asking).previews
        handle.cancel()
        assert not [preview for update in not_asking for preview in update.previews]


def test_cancelling(client, long):
    handle = client.submit(PROMPT, **long)
    handle.cancel()
    with pytest.raises(GenerationCancelledError) as caught:
        handle.wait()
    assert (caught.value.reason, caught.value.generation_id) == ("CANCEL_REQUESTED", handle.generation_id)
    assert caught.value.request_id == handle.request_id
    with pytest.raises(GenerationCancelledError):
        list(handle.frames())
    with pytest.raises(GenerationCancelledError):
        list(handle.pull())


def test_deleting(client, handle):
    handle.delete()
    with pytest.raises(GenerationNotFoundError) as caught:
        handle.refresh()
    assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "GENERATION_NOT_FOUND")
    for call in (client.delete, client.attach):
        with pytest.raises(GenerationNotFoundError):
            call(handle.generation_id)
    with pytest.raises(GenerationNotFoundError):
        list(handle.frames())
    with pytest.raises(GenerationNotFoundError):
        list(handle.pull())


def test_only_what_has_ended_is_deleted(client, long):
    handle = client.submit(PROMPT, **long)
    with pytest.raises(WrongStateError):
        handle.delete()
    handle.cancel()


def test_lists(client, handle):
    newest = client.list(limit=1)
    assert [generation.generation_id for generation in newest] == [handle.generation_id]
    assert client.list(limit=3, states=["failed"]) == []
    assert handle.generation_id in [found.generation_id for found in client.list(states=["succeeded"])]


def test_info(client):
    info = client.info()
    assert info.ready
    assert info.model().name == info.models[0].name
    assert len(info.ranks) == 1
    assert info.server_time is not None


def test_the_same_request_id_is_the_same_generation(client):
    name = str(uuid.uuid4())
    first, second = (client.submit(PROMPT, request_id=name, **WANTED) for _ in range(2))
    assert first.generation_id == second.generation_id
    with pytest.raises(RequestIdReusedError) as caught:
        client.submit(PROMPT, request_id=name, **{**WANTED, "seed": 8})
    assert caught.value.request_id == name


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"width": 63}, {"width"}),
        ({"frames": 10**9}, {"frames"}),
        ({"steps": 201, "guidance": 51.0, "priority": 10}, {"steps", "guidance", "priority"}),
        ({"frames": 0, "width": 63}, {"frames", "width"}),
        ({"preview_every": 1001}, {"preview_every"}),
    ],
)
def test_every_violation_is_told_at_once(client, options, names):
    for call in (client.submit, client.check):
        with pytest.raises(InvalidRequestError) as caught:
            call(PROMPT, **{**WANTED, **options})
        assert {violation.argument for violation in caught.value.violations} == names


def test_an_unknown_model(client):
    with pytest.raises(ModelNotFoundError):
        client.submit(PROMPT, model="another")


def test_frames_that_do_not_exist(handle):
    for read in (lambda: list(handle.frames(COUNT + 1)), lambda: list(handle.pull(COUNT + 1))):
        with pytest.raises(InvalidRequestError) as caught:
            read()
        assert {violation.field for violation in caught.value.violations} == {"start_frame_index"}


def test_waiting_has_an_end(client, long):
    handle = client.submit(PROMPT, **long)
    with pytest.raises(RpcTimeoutError, match="not finished yet"):
        handle.wait(0.05)
    with handle.pull() as puller, pytest.raises(RpcTimeoutError, match="no frame came"):
        puller.next(0.05)
    handle.cancel()


def test_leaving_early_cancels(client, long):
    with client.generate(PROMPT, **long) as video:
        pass
    assert video.handle.refresh().state in (GenerationState.CANCELLING, GenerationState.CANCELLED)


def test_what_happened_when(client, handle):
    trace = client.trace(handle.generation_id)
    assert handle.trace().generation_id == trace.generation_id == handle.generation_id
    assert trace.left_out_count == 0
    assert [span.start_ns for span in trace.spans] == sorted(span.start_ns for span in trace.spans)
    steps = [span.step for span in trace.spans if span.lane is TraceLane.COMPUTE and span.rank == 0]
    assert steps == list(range(1, WANTED["steps"] + 1))
    decoded = [frame for span in trace.spans if span.lane is TraceLane.DECODE for frame in span.frames]
    assert sorted(decoded) == list(range(COUNT))
    assert {span.epoch for span in trace.spans if span.rank == 0} == {1}
    assert [(span.epoch, span.lane) for span in trace.spans if span.rank is None and span.name == "running"] == [
        (0, TraceLane.STATE)
    ]
    assert list(trace.shares()) == [0]
    with pytest.raises(GenerationNotFoundError):
        client.trace("gen-2")
