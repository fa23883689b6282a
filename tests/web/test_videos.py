"""Videos that grow while they are watched, each encoded once."""

from __future__ import annotations

import asyncio
import io
from contextlib import aclosing, asynccontextmanager

import av
import pytest

from tests.server.fakes import create
from tests.web.conftest import store_frames
from vinf_server.front.errors import GenerationNotFoundError, WrongStateError
from vinf_server.front.generations.generation import CANCEL_REQUESTED, Terms
from vinf_server.front.web import videos as videos_module
from vinf_server.front.web.encoding import FragmentEncoder
from vinf_server.front.web.errors import NoVideoError
from vinf_server.front.web.videos import Videos

pytestmark = pytest.mark.fast


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """The room, and a count of the encoders it opens."""
    opened = []

    class Counted(FragmentEncoder):
        def __init__(self, spec):
            opened.append(spec)
            super().__init__(spec)

    monkeypatch.setattr(videos_module, "FragmentEncoder", Counted)

    @asynccontextmanager
    async def open_room():
        room = Videos(tmp_path / "page")
        room.opened = opened
        try:
            yield room
        finally:
            await room.close()
            assert list((tmp_path / "page").iterdir()) == [], "files are left"

    return open_room


class Watcher:
    """Reads a video in the background."""

    def __init__(self, video, *, first_frame=0, is_over=lambda: False):
        self.data = b""
        self.grown = asyncio.Event()
        self.task = asyncio.create_task(self._read(video, first_frame, is_over))

    async def _read(self, video, first_frame, is_over):
        async with aclosing(video.chunks(first_frame=first_frame, is_over=is_over)) as chunks:
            async for chunk in chunks:
                self.data += chunk
                self.grown.set()

    async def until_frames(self, count):
        while self.count() < count:
            self.grown.clear()
            await self.grown.wait()

    def times(self):
        with av.open(io.BytesIO(self.data)) as container:
            return [round(float(frame.pts * frame.time_base * 24)) for frame in container.decode(video=0)]

    def count(self):
        return len(self.times()) if b"moof" in self.data else 0


def test_one_encode_for_all_and_the_beginning_for_late_ones(videos, generations, run):
    async def scenario():
        async with videos() as room:
            generation = create(generations, frame_count=60)
            generations.start_next()
            early = Watcher(await room.of(generation))
            await store_frames(generations, generation, *range(30))
            await early.until_frames(24)
            assert not early.task.done()
            late = Watcher(await room.of(generation))
            middle = Watcher(await room.of(generation), first_frame=20)
            await late.until_frames(24)
            await store_frames(generations, generation, *range(30, 60))
            generations.succeed(generation)
            await asyncio.gather(early.task, late.task, middle.task)
            assert early.data == late.data
            assert early.times() == list(range(60))
            assert middle.times() == list(range(12, 60)), "from the fragment that holds the frame"
            again = Watcher(await room.of(generation))
            await again.task
            assert again.data == early.data
            assert len(room.opened) == 1

    run(scenario())


def test_nothing_is_encoded_for_nobody(videos, generations, run):
    async def scenario():
        async with videos() as room:
            generation = create(generations, frame_count=60)
            generations.start_next()
            video = await room.of(generation)
            await store_frames(generations, generation, *range(60))
            generations.succeed(generation)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not video.is_complete
            watcher = Watcher(video)
            await watcher.task
            assert watcher.count() == 60

    run(scenario())


def test_a_video_ends_with_its_generation_or_the_server(videos, generations, run):
    async def scenario():
        async with videos() as room:
            cancelled = create(generations, frame_count=60)
            generations.start_next()
            is_draining = False
            watcher = Watcher(await room.of(cancelled))
            await store_frames(generations, cancelled, *range(15))
            with pytest.raises(WrongStateError, match="has not ended"):
                await (await room.of(cancelled)).plain_file()
            generations.fail(cancelled, CANCEL_REQUESTED)
            await watcher.task
            assert watcher.times() == list(range(15))
            assert (await (await room.of(cancelled)).plain_file()).exists()
            waiting = create(generations, frame_count=60)
            watcher = Watcher(await room.of(waiting), is_over=lambda: is_draining)
            await watcher.grown.wait()
            is_draining = True
            generations.drain()
            await watcher.task

    run(scenario())


def test_dropped_and_damaged_frames_are_left_out(videos, generations, run):
    async def scenario():
        async with videos() as room:
            generation = create(generations, frame_count=80)
            object.__setattr__(generation, "terms", Terms(retention_frame_count=64))
            generations.start_next()
            await store_frames(generations, generation, *range(20))
            generations.release_before(generation, 10)
            stored = bytearray(generation.frames.path.read_bytes())
            stored[12 * generation.frames.frame_size] ^= 255
            generation.frames.path.write_bytes(stored)
            watcher = Watcher(await room.of(generation))
            await store_frames(generations, generation, *range(20, 80))
            generations.succeed(generation)
            await watcher.task
            assert watcher.times() == [10, 11, *range(13, 80)]

    run(scenario())


def test_old_videos_make_room_and_forgotten_ones_go(videos, generations, run, monkeypatch):
    monkeypatch.setattr(videos_module, "_MOST_KEPT", 2)

    async def scenario():
        async with videos() as room:
            made = [create(generations, frame_count=8) for _ in range(3)]
            watched = Watcher(await room.of(made[0]))
            await watched.grown.wait()
            for generation in made[1:]:
                await room.of(generation)
            assert set(room._videos) == {made[0].generation_id, made[2].generation_id}
            room.forget(made[2].generation_id)
            assert set(room._videos) == {made[0].generation_id}
            generations.cancel(made[0].generation_id)
            await watched.task
            with pytest.raises(NoVideoError, match="there is not a single frame"):
                await (await room.of(made[0])).plain_file()

    run(scenario())


def test_a_new_video_is_opened_where_all_others_are_watched(videos, generations, run, monkeypatch):
    monkeypatch.setattr(videos_module, "_MOST_KEPT", 2)

    async def scenario():
        async with videos() as room:
            made = [create(generations, frame_count=8) for _ in range(3)]
            watchers = []
            for generation in made:
                watchers.append(Watcher(await room.of(generation)))
                await watchers[-1].grown.wait()
            assert len(room._videos) == 3
            for generation, watcher in zip(made, watchers, strict=True):
                generations.cancel(generation.generation_id)
                await watcher.task
            await room.of(made[2])
            assert len(room._videos) == 2, "what nobody watches any more has made room"

    run(scenario())


def test_a_disk_that_refuses_ends_the_video_only(videos, generations, run, tmp_path):
    async def scenario():
        async with videos() as room:
            generation = create(generations, frame_count=8)
            in_the_way = tmp_path / "page" / f"{generation.generation_id}.fragments"
            in_the_way.mkdir()
            with pytest.raises(NoVideoError, match="the video cannot be written: Is a directory"):
                await room.of(generation)
            room.forget(generation.generation_id)
            in_the_way.rmdir()

    run(scenario())


def test_a_deleted_generation_ends_its_streams(videos, generations, run):
    async def scenario():
        async with videos() as room:
            generations.keeper.when_forgotten(room.forget)
            generation = create(generations, frame_count=60)
            generations.start_next()
            watcher = Watcher(await room.of(generation))
            await store_frames(generations, generation, *range(30))
            await watcher.until_frames(24)
            room.forget(generation.generation_id)
            await watcher.task
            assert watcher.times() == list(range(24))

    run(scenario())


def test_a_generation_deleted_before_its_encoder_had_its_turn_ends_the_request(videos, generations, run):
    async def scenario():
        async with videos() as room:
            generation = create(generations, frame_count=8)
            async with room._threads:  # another video is being encoded
                asked = asyncio.create_task(room.of(generation))
                await asyncio.sleep(0)  # it waits for the first bytes
                room.forget(generation.generation_id)
                with pytest.raises(GenerationNotFoundError, match="was deleted"):
                    await asked
            assert not room.opened

    run(scenario())


def test_a_generation_deleted_while_its_file_is_asked_for_ends_the_request(videos, generations, run):
    async def scenario():
        async with videos() as room:
            generation = create(generations, frame_count=8)
            generations.start_next()
            video = await room.of(generation)
            await store_frames(generations, generation, *range(8))
            generations.succeed(generation)
            async with room._threads:
                asked = asyncio.create_task(video.plain_file())
                await asyncio.sleep(0)  # it waits for the last bytes
                room.forget(generation.generation_id)
                with pytest.raises(GenerationNotFoundError, match="was deleted"):
                    await asked

    run(scenario())
