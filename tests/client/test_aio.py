"""What only the asynchronous client has to get right: nothing outlives its reader, and cancellation stays one."""

import asyncio
import gc

import numpy as np
import pytest

from vinf_client import (
    AsyncClient,
    ClientClosedError,
    GenerationFailedError,
    GenerationState,
    InvalidRequestError,
    OutputError,
    TransportError,
)
from vinf_client.testing import FakeServer, fake_pixels

pytestmark = pytest.mark.fast

COUNT = 20


@pytest.fixture
def fake():
    with FakeServer() as server:
        yield server


def run(fake, body):
    """Run a test's body with a client."""

    async def main():
        async with AsyncClient(fake.address, token="", tls=False) as client:
            return await asyncio.wait_for(body(client), 60)

    return asyncio.run(main())


async def all_gone(fake):
    gc.collect()
    return await asyncio.to_thread(fake.wait_for_calls, 0)


@pytest.mark.parametrize("latency", ["all", "low"])
@pytest.mark.parametrize("prefetch", [0, 8])
def test_frames(fake, latency, prefetch):
    fake.reset(frame_rate=500, break_at=(2,), damage_at=(4,))

    async def body(client):
        async with await client.generate("a red ball", frames=8, latency=latency, prefetch=prefetch) as video:
            assert len(video) == 8
            return [frame async for frame in video]

    frames = run(fake, body)
    indices = [frame.index for frame in frames]
    assert indices == (list(range(8)) if latency == "all" else sorted(set(indices)))
    assert all(np.array_equal(frame, fake_pixels(frame.index)) for frame in frames)


def test_a_puller_counts_what_it_does(fake):
    fake.reset(damage_at=(2,), frame_rate=100)

    async def body(client):
        handle = await client.submit("a red ball", frames=8)
        async with handle.pull(2) as puller:
            frames = [frame async for frame in puller]
        return frames, puller.stats

    frames, stats = run(fake, body)
    assert (stats.frames_received, stats.frames_taken, stats.frames_dropped, stats.frames_skipped) == (6, 6, 0, 0)
    assert stats.bytes_received == sum(len(frame.data) for frame in frames)
    assert stats.reconnects == 1
    assert stats.waits >= 1
    assert 0 < stats.waited_seconds < 20


@pytest.mark.parametrize("name", ["format", "latency", "prefetch"])
def test_an_option_that_is_none_is_told(fake, name):
    async def body(client):
        for call in (client.submit, client.check):
            with pytest.raises(InvalidRequestError) as caught:
                await call("a red ball", **{name: "nope"})
            assert [violation.argument for violation in caught.value.violations] == [name]
        return str(caught.value)

    assert run(fake, body).startswith(f"{name}: ")


@pytest.mark.parametrize("prefetch", [0, 8])
def test_abandoned_streams_end(fake, prefetch):
    """gRPC itself would leave every handler running: https://github.com/grpc/grpc/issues/43462."""
    fake.reset(frame_rate=5)

    async def body(client):
        kept = []
        for _ in range(COUNT):
            handle = await client.submit("a red ball", frames=1000)
            frames = handle.frames(prefetch=prefetch)
            assert (await anext(frames)).index == 0
            kept.append(frames)
        assert await asyncio.to_thread(fake.wait_for_calls, COUNT)
        del frames, handle
        kept.clear()
        return await all_gone(fake)

    assert run(fake, body)


def test_a_stream_whose_reader_was_never_told_to_stop_ends_with_its_last_reference(fake):
    """Without the help of the event loop's hooks for generators: the stream has a finaliser of its own."""
    fake.reset(frame_rate=5)

    async def body(client):
        handle = await client.submit("a red ball", frames=1000)
        transport = client._transport
        from vinf.v1 import video_generation_service_pb2 as service_pb

        request = service_pb.StreamFramesRequest(generation_id=handle.generation_id)
        stream = transport.stream("StreamFrames", request)
        assert (await stream.read()).HasField("header")
        assert fake.open_calls == 1
        del stream
        return await all_gone(fake)

    assert run(fake, body)


def test_abandoned_watches_and_pullers_end(fake):
    fake.reset(frame_rate=5)

    async def body(client):
        handle = await client.submit("a red ball", frames=1000)
        updates = handle.updates()
        await anext(updates)
        puller = handle.pull()
        await puller.next()
        assert await asyncio.to_thread(fake.wait_for_calls, 2)
        del updates, puller
        return await all_gone(fake)

    assert run(fake, body)


def test_breaking_out_of_a_video_cancels_it(fake):
    fake.reset(frame_rate=5)

    async def body(client):
        video = await client.generate("a red ball", frames=1000)
        async for _ in video:
            break
        with pytest.raises(Exception, match="the client asked for it"):
            await video.handle.wait()
        return await all_gone(fake)

    assert run(fake, body)


def test_a_cancelled_task_stays_cancelled_and_leaves_nothing(fake):
    fake.reset(frame_rate=5)

    async def body(client):
        video = await client.generate("a red ball", frames=1000)
        begun = asyncio.Event()

        async def read():
            async for _ in video:
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert (await video.handle.refresh()).state is GenerationState.CANCELLED
        return await all_gone(fake)

    assert run(fake, body)


def test_timeouts_of_the_caller_work(fake):
    fake.reset(step_seconds=60)

    async def body(client):
        handle = await client.submit("a red ball")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(handle.frames())
        with pytest.raises(TransportError, match="not finished yet"):
            await handle.wait(0.1)
        assert (await handle.progress).completed_step_count == 0
        return await all_gone(fake)

    assert run(fake, body)


def test_closing_ends_what_is_under_way(fake):
    fake.reset(frame_rate=5)

    async def body(client):
        handle = await client.submit("a red ball", frames=1000)
        # Frame 500 is minutes away: nothing comes before the client is closed.
        reading = asyncio.create_task(anext(handle.frames(500, prefetch=0)))
        waiting = asyncio.create_task(handle.wait())
        puller = handle.pull(500)
        pulling = asyncio.create_task(puller.next())
        assert await asyncio.to_thread(fake.wait_for_calls, 3, 30)
        await client.close()
        for task in (reading, waiting, pulling):
            with pytest.raises(ClientClosedError):
                await task
        with pytest.raises(ClientClosedError):
            await client.info()
        return await all_gone(fake)

    assert run(fake, body)


def test_closing_wakes_who_waits_to_try_again(fake):
    async def body(client):
        waiting = asyncio.Event()
        fake.queue_full = 1000
        submission = asyncio.create_task(
            client.submit("a red ball", wait_ready=3600, on_wait=lambda error: waiting.set())
        )
        await waiting.wait()
        await client.close()
        with pytest.raises(ClientClosedError):
            await submission

    run(fake, body)


def test_a_failure_comes_after_the_frames(fake):
    fake.reset(fail_at_frame=3)

    async def body(client):
        handle = await client.submit("a red ball", frames=8)
        frames = handle.frames()
        assert [(await anext(frames)).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(GenerationFailedError) as caught:
            await anext(frames)
        assert caught.value.request_id == handle.request_id
        assert handle.request_id

    run(fake, body)


def test_progress_is_called_back(fake):
    fake.reset(step_seconds=0.05, frame_rate=100)
    seen = []

    async def body(client):
        told = asyncio.Event()

        def on_progress(progress):
            seen.append(progress)
            told.set()

        indices = []
        async with await client.generate("a red ball", frames=4, steps=2, on_progress=on_progress) as video:
            async for frame in video:
                indices.append(frame.index)
                await told.wait()  # with the last frame progress is no longer watched
        return indices

    assert run(fake, body) == [0, 1, 2, 3]
    assert seen[0].step_count == 2


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.npy", "pictures"])
def test_saving(fake, tmp_path, name):
    async def body(client):
        return await (await client.generate("a red ball", frames=3)).save(tmp_path / name)

    path = run(fake, body)
    assert path == tmp_path / name
    assert path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_cancelled_save_leaves_no_file(fake, tmp_path):
    fake.reset(frame_rate=20)

    async def body(client):
        handle = await client.submit("a red ball", frames=1000)
        begun = asyncio.Event()
        task = asyncio.create_task(handle.save(tmp_path / "a.mp4", on_progress=lambda progress: begun.set()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await all_gone(fake)

    assert run(fake, body)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_saved(fake, tmp_path):
    async def body(client):
        handle = await client.submit("a red ball", frames=3)
        with pytest.raises(OutputError, match="is not an output"):
            await handle.save(tmp_path / "a.avi")
        with pytest.raises(InvalidRequestError, match="start: 2 to 9 is not allowed"):
            await handle.save(tmp_path / "a.mp4", start=2, stop=9)

    run(fake, body)


def test_nobody_there():
    async def main():
        async with AsyncClient("127.0.0.1:1", token="", tls=False) as client:
            with pytest.raises(TransportError, match="connection refused"):
                await client.info()

    asyncio.run(main())


def test_it_can_be_made_outside_of_a_loop(fake):
    client = AsyncClient(fake.address, token="", tls=False)

    async def use():
        async with client:
            return (await client.info()).ready

    assert asyncio.run(use())
