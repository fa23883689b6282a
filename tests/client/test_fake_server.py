"""What a fake server can be told to do."""

import threading
import time

import numpy as np
import pytest

from vinf_client import (
    Client,
    GenerationFailedError,
    InvalidRequestError,
    QueueFullError,
    RequestIdReusedError,
    TransportError,
)
from vinf_client.testing import FakeServer, Script, fake_pixels

pytestmark = pytest.mark.fast


def client_of(server, **options):
    return Client(server.address, token="", tls=False, **options)


def test_every_frame_has_a_picture_of_its_own():
    indices = [*range(2000), *range(2**15 - 5, 2**15 + 300), 2**20, 2**23 - 1]
    assert len({fake_pixels(index, 16, 16).tobytes() for index in indices}) == len(indices)
    assert fake_pixels(3, 20, 10).shape == (10, 20, 3)


def test_a_full_queue():
    with FakeServer(queue_full=3) as server, client_of(server) as client:
        with pytest.raises(QueueFullError) as caught:
            client.submit("a red ball", wait_ready=0)
        assert caught.value.retry_after == 0.05
        assert caught.value.request_id
        assert caught.value.retryable
        reasons = []
        client.submit("a red ball", on_wait=lambda error: reasons.append(error.reason))
        assert reasons == ["QUEUE_FULL"] * 2


def test_frames_take_their_time():
    with FakeServer(frame_rate=20) as server, client_of(server) as client:
        began = time.monotonic()
        assert len(list(client.generate("a red ball", frames=10))) == 10
        assert time.monotonic() - began >= 0.45


def test_a_generation_that_fails():
    with FakeServer(fail_at_frame=2) as server, client_of(server) as client:
        handle = client.submit("a red ball", frames=4)
        frames = handle.frames()
        assert [next(frames).index, next(frames).index] == [0, 1]
        with pytest.raises(GenerationFailedError):
            next(frames)
        with pytest.raises(GenerationFailedError) as caught:
            handle.wait()
        assert (caught.value.reason, caught.value.generation_id) == ("WORKER_LOST", handle.generation_id)


@pytest.mark.parametrize(("steps", "last"), [(3, 2), (4, 4)])
def test_previews(steps, last):
    """Only the newest are sent: who watches late misses the earlier ones, never the last ones."""
    with FakeServer(step_seconds=0.05) as server, client_of(server) as client:
        handle = client.submit("a red ball", frames=8, steps=steps, preview_every=2)
        found = [preview for update in handle.updates(previews=True) for preview in update.previews]
        assert {last} <= {preview.completed_step_count for preview in found} <= {2, last}
        assert {preview.frame_index for preview in found} == {0, 4}


def test_a_script_is_for_the_generations_that_follow():
    with FakeServer() as server, client_of(server) as client:
        first = client.submit("a red ball", frames=4)
        server.reset(fail_at_frame=1)
        assert server.script == Script(fail_at_frame=1)
        assert first.wait().state.value == "succeeded"
        with pytest.raises(GenerationFailedError):
            client.submit("a red ball", frames=4).wait()


def test_generations_outlive_a_restart():
    with FakeServer() as server, client_of(server) as client:
        handle = client.submit("a red ball", frames=2)
        address = server.address
        server.restart()
        assert server.address == address
        np.testing.assert_array_equal(np.stack(list(handle.frames())), [fake_pixels(0), fake_pixels(1)])


def test_nothing_is_left_of_it():
    before = set(threading.enumerate())
    with FakeServer(frame_rate=5) as server:
        client = client_of(server, resume_attempts=0)
        frames = client.submit("a red ball", frames=1000).frames()
        next(frames)
    with pytest.raises(TransportError):
        list(frames)
    client.close()
    server.stop()
    assert not [thread for thread in set(threading.enumerate()) - before if "fake" in thread.name]


def test_the_command_and_errors_with_an_id_of_ones_own():
    name = "0189d5f0-0000-4000-8000-000000000000"
    with FakeServer() as server, client_of(server) as client:
        handle = client.submit("a red ball", request_id=name)
        assert handle.request_id == name
        assert client.attach(handle.generation_id).request_id == ""
        with pytest.raises(RequestIdReusedError) as reused:
            client.submit("a blue ball", request_id=name)
        assert reused.value.request_id == name
        with pytest.raises(InvalidRequestError) as refused:
            client.submit("a red ball", width=63)
        assert refused.value.request_id
