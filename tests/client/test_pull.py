"""Pulled frames: the newest without waiting, or every one at the caller's pace."""

import gc
import threading
from datetime import UTC, datetime

import numpy as np
import pytest

from vinf_client import (
    Client,
    FrameEvictedError,
    GenerationFailedError,
    InvalidRequestError,
    RpcTimeoutError,
    TransportError,
)
from vinf_client._buffer import FrameBuffer
from vinf_client.testing import FakeServer, fake_pixels

pytestmark = pytest.mark.fast


@pytest.fixture
def fake():
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(fake):
    with Client(fake.address, token="", tls=False) as made:
        yield made


def pull_threads():
    return [thread for thread in threading.enumerate() if thread.name in ("vinf-pull", "vinf-read-ahead")]


def test_every_frame_once_and_in_order(client):
    with client.submit("a red ball", frames=50).pull() as puller:
        frames = list(puller)
        assert puller.ended
        assert puller.next() is None
        assert puller.latest() is frames[-1]
    assert [frame.index for frame in frames] == list(range(50))
    np.testing.assert_array_equal(frames[-1], fake_pixels(49))
    assert not pull_threads()


def test_a_part(client):
    with client.submit("a red ball", frames=50).pull(20, stop=30, capacity=1) as puller:
        assert [frame.index for frame in puller] == list(range(20, 30))


def test_frames_larger_than_a_reply_come_in_slices(client):
    with client.submit("a red ball", frames=3, width=2048, height=1024).pull(latency="low") as puller:
        frame = puller.next(20)
        assert len(frame.data) > 4 * 1024 * 1024
        np.testing.assert_array_equal(frame, fake_pixels(frame.index, 2048, 1024))


@pytest.mark.parametrize("latency", ["all", "low"])
def test_breaks_and_damage_are_mended(fake, client, latency):
    fake.reset(damage_at=(2, 5), frame_rate=100)
    with client.submit("a red ball", frames=8).pull(latency=latency) as puller:
        frames = list(puller)
    assert all(np.array_equal(frame, fake_pixels(frame.index)) for frame in frames)
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    assert indices[-1] == 7
    if latency == "all":
        assert indices == list(range(8))


def test_the_latest_never_waits_and_is_repeated(fake, client):
    fake.reset(step_seconds=60)
    with client.submit("a red ball", frames=4, steps=1).pull(latency="low") as puller:
        assert puller.latest() is None
    fake.reset(step_seconds=0.2)
    with client.submit("a red ball", frames=4, steps=1).pull(latency="low") as puller:
        newest = puller.next(20)
        assert newest.index == 3
        assert puller.latest() is newest
        assert puller.latest() is newest


def test_it_counts_what_it_does(fake, client):
    fake.reset(damage_at=(2,), frame_rate=100)
    with client.submit("a red ball", frames=8).pull(2) as puller:
        frames = list(puller)
    stats = puller.stats
    assert (stats.frames_received, stats.frames_taken, stats.frames_dropped, stats.frames_skipped) == (6, 6, 0, 0)
    assert stats.bytes_received == sum(len(frame.data) for frame in frames)
    assert stats.reconnects == 1, "the damaged frame was asked for again"
    assert stats.waits >= 1
    assert 0 < stats.waited_seconds < 20


def test_it_counts_what_was_never_sent_and_never_taken(client):
    """Low latency: of twenty frames that are there at once only the newest is sent."""
    handle = client.submit("a red ball", frames=20)
    with handle.pull(latency="low") as puller:
        assert puller.next(20).index == 19
    stats = puller.stats
    assert (stats.frames_received, stats.frames_taken, stats.frames_skipped) == (1, 1, 19)
    buffer = FrameBuffer(4, only_latest=True)
    frame = puller.latest()
    buffer.put(frame)
    buffer.put(frame)
    assert buffer.latest() is frame
    assert (buffer.stats.frames_received, buffer.stats.frames_taken, buffer.stats.frames_dropped) == (2, 1, 1)


def test_a_wait_that_fails_counts(fake, client):
    fake.reset(step_seconds=60)
    with client.submit("a red ball").pull() as puller:
        with pytest.raises(RpcTimeoutError):
            puller.next(0.05)
        assert puller.stats.waits == 1
        assert puller.stats.waited_seconds >= 0.05


def test_waiting_ends(fake, client):
    fake.reset(step_seconds=60)
    with client.submit("a red ball").pull() as puller:
        with pytest.raises(RpcTimeoutError, match=r"no frame came within 0\.05 s"):
            puller.next(0.05)
        assert not puller.ended
    assert fake.wait_for_calls(0)


def test_a_failure_comes_after_the_frames(fake, client):
    fake.reset(fail_at_frame=3)
    handle = client.submit("a red ball", frames=8)
    with handle.pull() as puller:
        assert [puller.next().index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(GenerationFailedError) as caught:
            puller.next(20)
        assert (caught.value.reason, caught.value.request_id) == ("WORKER_LOST", handle.request_id)
        with pytest.raises(GenerationFailedError):
            puller.latest()


def test_frames_that_are_no_longer_kept(fake, client):
    fake.reset(evict_before=5)
    handle = client.submit("a red ball", frames=8)
    for read in (lambda: list(handle.frames()), lambda: list(handle.pull())):
        with pytest.raises(FrameEvictedError) as caught:
            read()
        assert caught.value.first_available_frame_index == 5
    assert [frame.index for frame in handle.frames(5)] == [5, 6, 7]
    assert [frame.index for frame in handle.frames(latency="low")] == [7]


def test_low_latency_keeps_up_with_a_fast_producer(fake, client):
    """The consumer takes 12 of 240 frames a second; what it gets is what is newest at that moment."""
    fake.reset(frame_rate=240)
    ages = []
    for frame in client.submit("a red ball", frames=240).frames(latency="low"):
        ages.append((datetime.now(UTC) - frame.generate_time).total_seconds())
        threading.Event().wait(1 / 12)
    assert len(ages) < 30
    assert sorted(ages)[len(ages) // 2] < 0.2  # in order they would be ten seconds old half-way


def test_a_server_that_goes_away_is_told(fake, client):
    handle = client.submit("a red ball")
    with Client(fake.address, token="", tls=False, resume_attempts=1) as impatient:
        other = impatient.attach(handle.generation_id)
        fake.stop()
        with pytest.raises(TransportError, match="connection"), other.pull() as puller:
            puller.next(20)


def test_an_abandoned_puller_ends(fake, client):
    fake.reset(frame_rate=5)
    puller = client.submit("a red ball", frames=1000).pull()
    puller.next(20)
    del puller
    gc.collect()
    assert fake.wait_for_calls(0)
    for thread in pull_threads():
        thread.join(10)
    assert not pull_threads()


def test_a_client_that_is_closed_ends_its_pullers(fake):
    fake.reset(frame_rate=5)
    client = Client(fake.address, token="", tls=False)
    puller = client.submit("a red ball", frames=1000).pull()
    puller.next(20)
    client.close()
    assert fake.wait_for_calls(0)
    puller.close()
    assert not pull_threads()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"latency": "none"}, "latency"),
        ({"start": -1}, "start"),
        ({"start": 1.5}, "start"),
        ({"stop": -2}, "stop"),
        ({"prefetch": -1}, "prefetch"),
        ({"prefetch": True}, "prefetch"),
    ],
)
def test_arguments_that_cannot_be(client, arguments, name):
    with pytest.raises(InvalidRequestError) as caught:
        client.submit("a red ball").frames(**arguments)
    assert [violation.argument for violation in caught.value.violations] == [name]


def test_reading_ahead_is_bounded_and_ends(fake, client):
    handle = client.submit("a red ball", frames=300)
    frames = handle.frames(prefetch=2)
    assert next(frames).index == 0
    assert len(pull_threads()) == 1
    frames.close()
    assert not pull_threads()
    assert [frame.index for frame in handle.frames(298, prefetch=0)] == [298, 299]
    assert fake.wait_for_calls(0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("format", "is chosen by who reads the frames: give it to frames, pull or generate; allowed: rgb24, rgba8"),
        ("latency", "is chosen by who reads the frames: give it to frames, pull or generate; allowed: all, low"),
        ("prefetch", "is chosen by who reads the frames: give it to frames or generate; allowed: a whole number"),
    ],
)
def test_what_is_no_option_of_a_generation(client, name, words):
    for call in (client.submit, client.check):
        with pytest.raises(InvalidRequestError) as caught:
            call("a red ball", **{name: "nope"})
        assert str(caught.value).startswith(f"{name}: {words}")
    assert client.list() == []


@pytest.mark.parametrize("wanted", [{"latency": "x"}, {"format": "x"}, {"prefetch": -1}])
def test_generate_refuses_before_anything_is_created(fake, client, wanted):
    with pytest.raises(InvalidRequestError):
        client.generate("a red ball", **wanted)
    assert client.list() == []
