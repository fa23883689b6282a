"""Silence on an open connection is noticed, mended where it can be, and told where it cannot."""

import asyncio
import threading

import pytest

from tests.cases.test_network import Line
from tests.chaos.proxy import Weather
from tests.client.blocking import BlockingClient
from vinf_client import AsyncClient, Client, InvalidRequestError, StallError
from vinf_client._stall import Silence, StallWatch
from vinf_client.testing import FakeServer

pytestmark = pytest.mark.fast

PATIENCE = 2.0  # seconds, the least that is allowed


@pytest.fixture
def fake():
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(fake):
    with Client(fake.address, token="", tls=False, stall_timeout=PATIENCE, resume_attempts=1) as made:
        yield made


def stall_threads():
    return [thread for thread in threading.enumerate() if thread.name == "vinf-stall-watch"]


@pytest.mark.parametrize("prefetch", [0, 8])
def test_a_silent_stream_is_opened_again(fake, client, prefetch):
    fake.reset(silent_at=(3,))
    reasons = []
    frames = list(client.submit("a red ball", frames=6).frames(prefetch=prefetch, on_wait=reasons.append))
    assert [frame.index for frame in frames] == list(range(6))
    (reason,) = reasons
    assert isinstance(reason, StallError)
    assert "nothing, not even a sign of life, for 2 s" in str(reason)
    assert fake.wait_for_calls(0)


def test_the_same_asynchronously(fake):
    fake.reset(silent_at=(3,))
    reasons = []

    async def read():
        async with AsyncClient(fake.address, token="", tls=False, stall_timeout=PATIENCE) as client:
            handle = await client.submit("a red ball", frames=6)
            return [frame.index async for frame in handle.frames(on_wait=reasons.append)]

    assert asyncio.run(read()) == list(range(6))
    assert [type(reason) for reason in reasons] == [StallError]
    assert fake.wait_for_calls(0)


@pytest.mark.parametrize("kind", [Client, BlockingClient], ids=["sync", "async"])
@pytest.mark.parametrize("way", ["frames", "pull"])
def test_a_line_that_falls_silent(fake, kind, way):
    """Nothing passes and nothing is closed; it speaks again when the silence was noticed, long before gRPC would."""
    fake.reset(frame_rate=40)
    line = Line(fake.address)
    reasons, indices = [], []

    def on_wait(reason):
        reasons.append(type(reason))
        line.set_weather(Weather())

    options = {"token": "", "tls": False, "stall_timeout": PATIENCE}
    try:
        with kind(line.proxy.address, **options) as client:
            for frame in getattr(client.submit("a red ball", frames=60), way)(on_wait=on_wait):
                indices.append(frame.index)
                if len(indices) == 5:
                    line.set_weather(Weather(silent=True))
    finally:
        line.close()
    assert indices == list(range(60))
    assert StallError in reasons


def test_a_server_that_never_speaks_again_is_told(fake):
    """No resume is left: the error of the silence is what the caller gets."""
    fake.reset(silent_at=(1,))
    with Client(fake.address, token="", tls=False, stall_timeout=PATIENCE, resume_attempts=0) as client:
        frames = client.submit("a red ball", frames=6).frames(prefetch=0)
        assert next(frames).index == 0
        with pytest.raises(StallError) as caught:
            next(frames)
        assert caught.value.request_id


def test_waiting_for_a_slow_generation_is_no_silence(fake):
    """Keepalives come in time: they are asked for more often where patience is short.

    With the least patience one that is a second late is too late, and a loaded machine is that slow.
    """
    patience = 3 * PATIENCE
    fake.reset(step_seconds=patience * 1.5)
    reasons = []
    with Client(fake.address, token="", tls=False, stall_timeout=patience, resume_attempts=1) as client:
        frames = client.submit("a red ball", frames=2, steps=1).frames(on_wait=reasons.append)
        assert [frame.index for frame in frames] == [0, 1]
    assert reasons == []


def test_a_slow_reader_is_no_silence(fake, client):
    reasons = []
    indices = []
    for frame in client.submit("a red ball", frames=2).frames(prefetch=0, on_wait=reasons.append):
        indices.append(frame.index)
        threading.Event().wait(PATIENCE * 1.25)
    assert indices == [0, 1]
    assert reasons == []


def test_snapshots_may_be_rare(fake, client):
    """Nothing changes for longer than the patience, and that is no failure."""
    fake.reset(step_seconds=PATIENCE * 1.5)
    reasons = []
    states = [
        update.generation.state.value
        for update in client.submit("a red ball", frames=2, steps=1).updates(on_wait=reasons.append)
    ]
    assert states[0] == "running"
    assert states[-1] == "succeeded"
    assert reasons == []


def test_the_watch_ends_with_its_last_stream():
    watch = StallWatch()
    broken = threading.Event()
    silence = Silence(0.05, broken.set)
    silence.begin()
    watch.add(silence)
    assert broken.wait(10)
    assert silence.broken
    watch.remove(silence)
    for thread in stall_threads():
        thread.join(10)
    assert not stall_threads()


@pytest.mark.parametrize("value", [0, -1, 1.9, float("nan"), float("inf")])
def test_patience_that_cannot_work(value):
    with pytest.raises(InvalidRequestError, match=r"stall_timeout: .* is not allowed; allowed: at least 2 s, or None"):
        Client("127.0.0.1:1", stall_timeout=value)
