"""Through a bad network, and past servers that are killed: every frame once, in order, byte for byte."""

import asyncio
import gc
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cases.test_network import Line
from tests.chaos.proxy import Weather
from tests.client.blocking import BlockingClient
from tests.support.server import Server
from vinf_client import AsyncClient, Client
from vinf_client.testing import FakeServer, fake_pixels

CLIENTS = pytest.mark.parametrize("kind", [Client, BlockingClient], ids=["sync", "async"])
PROMPT = "a red ball"
COUNT = 24
OPTIONS = {"token": "", "tls": False, "connect_timeout": 60, "resume_attempts": 100}
TRIES = 20


@pytest.fixture
def fake():
    with FakeServer() as server:
        yield server


@pytest.fixture
def line(fake):
    made = Line(fake.address)
    yield made
    made.close()


def expected(start=0):
    return [(index, fake_pixels(index).tobytes()) for index in range(start, COUNT)]


def contents(frames):
    return [(frame.index, frame.data) for frame in frames]


@pytest.mark.fast
@CLIENTS
@pytest.mark.parametrize(
    "weather",
    [Weather(delay_s=0.1), Weather(bytes_per_s=400_000), Weather(piece_bytes=1)],
    ids=["late", "slow", "crumbs"],
)
def test_streams_and_pulls(fake, line, kind, weather):
    line.set_weather(weather)
    start = COUNT - 4 if weather.piece_bytes else 0
    with kind(line.proxy.address, **OPTIONS) as client:
        handle = client.submit(PROMPT, frames=COUNT)
        assert contents(handle.frames(start)) == expected(start)
        assert contents(handle.pull(start)) == expected(start)
    assert fake.wait_for_calls(0)


@pytest.mark.fast
@CLIENTS
@pytest.mark.parametrize("way", ["frames", "pull"])
def test_connections_that_are_reset(fake, line, kind, way):
    """Again and again in the middle of frames, until two breaks were noticed."""
    line.set_weather(Weather(bytes_per_s=100_000))
    breaks = []
    with kind(line.proxy.address, **OPTIONS) as client:
        handle = client.submit(PROMPT, frames=COUNT)
        storm = threading.Thread(target=reset_until, args=(line, lambda: len(breaks) >= 2))
        storm.start()
        got = contents(getattr(handle, way)(on_wait=breaks.append))
        storm.join(60)
    assert got == expected()
    assert len(breaks) >= 2
    assert fake.wait_for_calls(0)


def reset_until(line, is_enough):
    try:
        for _ in range(100):
            if is_enough():
                return
            threading.Event().wait(0.2)  # frames take two seconds in this weather
            line.reset()
    finally:
        line.set_weather(Weather())


@pytest.mark.fast
@CLIENTS
def test_a_server_that_is_restarted(fake, kind):
    fake.reset(frame_rate=40)
    got = []
    with kind(fake.address, **OPTIONS) as client:
        for frame in client.submit(PROMPT, frames=COUNT).frames():
            got.append(frame)
            if len(got) == 5:
                fake.restart()
    assert contents(got) == expected()
    assert fake.wait_for_calls(0)


@pytest.mark.process
@pytest.mark.timeout(400)  # two servers start, one after the other
def test_a_real_server_that_is_killed_while_both_clients_read(tmp_path):
    options = {"frames": 96, "seed": 2, "steps": 4}
    server = Server(tmp_path, "--ranks", "1")
    line = Line(server.address)
    line.set_weather(Weather(bytes_per_s=30_000))  # 40 s for the whole video: nobody has all of it when the server dies
    ready = threading.Barrier(3)
    try:
        with Client(server.address, **OPTIONS) as direct, ThreadPoolExecutor(2) as pool:
            generation_id = direct.submit(PROMPT, detached=True, **options).generation_id
            address = line.proxy.address
            readers = [
                pool.submit(read, address, generation_id, ready),
                pool.submit(asyncio.run, read_async(address, generation_id, ready)),
            ]
            try:
                ready.wait(120)  # each has had a few frames
            except threading.BrokenBarrierError:
                ended = [reader.exception() if reader.done() else "reads on" for reader in readers]
                progress = direct.attach(generation_id).progress
                raise AssertionError(f"{progress}, readers: {ended}\n{server.log.read_text()}") from None
            server.process.kill()
            line.reset()  # what was on its way dies with it, as it does with a machine
            server.stop()
            (tmp_path / "ready.json").unlink()
            server = Server(tmp_path, "--ranks", "1")
            host, _, port = server.address.rpartition(":")
            line.proxy.upstream = (host, int(port))
            line.set_weather(Weather())
            found = [reader.result(120) for reader in readers]
        with Client(server.address, **OPTIONS) as direct:
            undisturbed = contents(direct.submit(PROMPT, **options).frames())
        for frames, breaks in found:
            assert contents(frames) == undisturbed
            assert breaks
        assert wait_for_streams(server, 0)
    finally:
        line.close()
        server.stop()


def read(address, generation_id, ready):
    got, breaks = [], []
    with Client(address, **OPTIONS) as client:
        for frame in client.attach(generation_id).frames(on_wait=breaks.append):
            got.append(frame)
            if len(got) == 3:
                ready.wait(120)
    return got, breaks


async def read_async(address, generation_id, ready):
    got, breaks = [], []
    async with AsyncClient(address, **OPTIONS) as client:
        async for frame in (await client.attach(generation_id)).frames(on_wait=breaks.append):
            got.append(frame)
            if len(got) == 3:
                await asyncio.to_thread(ready.wait, 120)
    return got, breaks


@pytest.mark.process
def test_abandoned_asynchronous_streams_leave_no_handler_on_a_real_server(real_server):
    async def abandon():
        async with AsyncClient(real_server.address, **OPTIONS) as client:
            handle = await client.submit(PROMPT, frames=64, steps=200)
            kept = []
            for number in range(TRIES):
                frames = handle.frames(prefetch=number % 2 * 8)
                kept.append((frames, asyncio.create_task(anext(frames))))
            were_open = await asyncio.to_thread(wait_for_streams, real_server, TRIES)
            for _, task in kept:
                task.cancel()
            await asyncio.gather(*(task for _, task in kept), return_exceptions=True)
            del frames
            kept.clear()
            gc.collect()
            are_gone = await asyncio.to_thread(wait_for_streams, real_server, 0)
            await handle.cancel()
            return were_open, are_gone

    assert asyncio.run(abandon()) == (True, True)


def wait_for_streams(server, count):
    """Return whether the server came to have so many streams of frames."""
    for _ in range(100):
        text = urllib.request.urlopen(server.metrics_url, timeout=10).read().decode()
        lines = [line for line in text.splitlines() if line.startswith('vinf_active_streams{method="StreamFrames"}')]
        if [float(line.split()[-1]) for line in lines] == [count]:
            return True
        threading.Event().wait(0.1)  # a number in another process: nothing to wait on but the clock
    return False
