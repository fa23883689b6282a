"""Readers of one video, from any frame, while it is made."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.server.fakes import create, frame_bytes
from vinf.v1 import generation_pb2
from vinf_server.front.frames.delivery import FrameReader, Window
from vinf_server.front.frames.layout import presentation_time_us
from vinf_server.front.generations.generation import CANCELLED

pytestmark = pytest.mark.fast


class Video:
    """A generation that a test makes frame by frame."""

    def __init__(self, generations, frame_count=10):
        self.generations = generations
        self.generation = create(generations, frame_count=frame_count, seed=5)
        generations.start_next()
        self.size = self.generation.frames.frame_size
        self.is_draining = False
        self.counted = []

    async def make(self, *indices):
        for index in indices:
            data = frame_bytes(5, index, self.size)
            assert await self.generation.frames.write(index, 0, data, frame_size=self.size)
            self.generations.frame_stored(self.generation)

    def reader(self, start=0, stop=None, *, max_data_bytes=1 << 20, keepalive_s=60.0):
        window = Window(
            start=start,
            stop=stop or self.generation.frames.frame_count,
            to_the_end=stop is None,
            max_data_bytes=max_data_bytes,
            keepalive_s=keepalive_s,
        )
        return FrameReader(
            self.generation, window, is_draining=lambda: self.is_draining, count_frame=self.counted.append
        )

    def assert_is_video(self, responses, start, stop):
        assert [r.frame.frame_index for r in responses] == list(range(start, stop))
        for response in responses:
            assert response.frame.data == frame_bytes(5, response.frame.frame_index, self.size)


async def collect(reader):
    return [response async for response in reader.responses()]


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


def test_readers_from_different_frames_follow_the_making(generations):
    async def scenario():
        video = Video(generations)
        await video.make(0, 1)
        starts = [0, 0, 1, 5, 9]
        readers = [asyncio.create_task(collect(video.reader(start))) for start in starts]
        await video.make(4, 3, 2, 9, 8, 7, 6)
        await asyncio.sleep(0)
        await video.make(5)
        generations.succeed(video.generation)
        for start, reader in zip(starts, readers, strict=True):
            video.assert_is_video(await reader, start, 10)

    run(scenario())


def test_explicit_end_does_not_wait_for_the_generation(generations):
    async def scenario():
        video = Video(generations)
        await video.make(2, 3)
        reader = video.reader(2, 4)
        video.assert_is_video(await collect(reader), 2, 4)
        assert reader.next_index == 4
        assert video.counted == [video.size, video.size]

    run(scenario())


def test_large_frames_come_in_slices(generations):
    async def scenario():
        video = Video(generations)
        await video.make(0)
        responses = await collect(video.reader(0, 1, max_data_bytes=5000))
        assert [(r.frame.data_offset_bytes, len(r.frame.data)) for r in responses] == [
            (0, 5000),
            (5000, 5000),
            (10000, 2288),
        ]
        assert {r.frame.data_size_bytes for r in responses} == {12288}
        assert b"".join(r.frame.data for r in responses) == frame_bytes(5, 0, video.size)

    run(scenario())


def test_reader_of_a_failed_video_gets_what_comes_without_a_gap(generations):
    async def scenario():
        video = Video(generations)
        await video.make(0, 1, 3)
        generations.cancelled(video.generation)
        reader = video.reader()
        video.assert_is_video(await collect(reader), 0, 2)
        assert (reader.next_index, video.generation.state) == (2, CANCELLED)
        video.assert_is_video(await collect(video.reader(3)), 3, 4)

    run(scenario())


def test_silence_brings_keepalives_even_while_steps_are_reported(generations):
    async def scenario():
        video = Video(generations)

        async def report_steps():
            while True:
                video.generation.changed.notify()
                await asyncio.sleep(0.005)

        steps = asyncio.create_task(report_steps())
        responses = video.reader(keepalive_s=0.05).responses()
        first = await anext(responses)
        assert first.keepalive.server_time.seconds > 0
        steps.cancel()
        await responses.aclose()

    run(scenario())


def test_draining_ends_a_waiting_reader(generations):
    async def scenario():
        video = Video(generations)
        reader = video.reader()
        reading = asyncio.create_task(collect(reader))
        await video.make(0)
        await asyncio.sleep(0)
        video.is_draining = True
        video.generation.changed.notify()
        assert len(await reading) == reader.next_index

    run(scenario())


def test_cancelled_reader_closes_its_file(generations):
    async def scenario():
        video = Video(generations)
        await video.make(0)
        before = len(os.listdir("/proc/self/fd"))
        responses = video.reader().responses()
        await anext(responses)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        await responses.aclose()
        assert len(os.listdir("/proc/self/fd")) == before

    run(scenario())


def test_hundreds_of_readers_share_a_wakeup(generations):
    async def scenario():
        video = Video(generations)
        readers = [asyncio.create_task(collect(video.reader(start % 10))) for start in range(300)]
        await video.make(*range(10))
        generations.succeed(video.generation)
        for start, reader in enumerate(readers):
            video.assert_is_video(await reader, start % 10, 10)

    run(scenario())


def test_presentation_times_are_exact():
    rate = generation_pb2.Rational(num=24000, den=1001)
    assert [presentation_time_us(i, rate) for i in (0, 1, 24000)] == [0, 41708, 1_001_000_000]
