"""Readers of one video, from any frame, while it is made."""

from __future__ import annotations

import asyncio
import io

import google_crc32c
import pytest
from PIL import Image

from tests.server.fakes import create, frame_bytes
from tests.support.remains import opened_below
from vinf.v1 import frame_pb2, generation_pb2
from vinf.v1.generation_pb2 import GenerationProgress
from vinf_server.front.errors import FrameDamagedError, GenerationNotFoundError
from vinf_server.front.frames.delivery import FrameReader, Response, Window
from vinf_server.front.frames.formats import STORED, Format
from vinf_server.front.frames.layout import presentation_time_us
from vinf_server.front.frames.shared import SharedFrames
from vinf_server.front.frames.video import Rendition
from vinf_server.front.generations.generation import CANCELLED

pytestmark = pytest.mark.fast


class Video:
    """A generation that a test makes frame by frame."""

    def __init__(self, generations, metrics, frame_count=10):
        self.generations = generations
        self.metrics = metrics
        self.generation = create(generations, frame_count=frame_count, seed=5)
        generations.start_next()
        self.size = self.generation.frames.frame_size
        self.shared = SharedFrames(metrics)
        self.is_draining = False

    async def make(self, *indices):
        for index in indices:
            data = frame_bytes(5, index, self.size)
            assert await self.generation.frames.write(index, 0, data, frame_size=self.size)
            self.generations.frame_stored(self.generation)

    def reader(
        self, start=0, stop=None, *, max_data_bytes=1 << 20, keepalive_s=60.0, output=STORED, release=None, **wishes
    ):
        window = Window(
            start=start,
            stop=stop or self.generation.frames.frame_count,
            to_the_end=stop is None,
            max_data_bytes=max_data_bytes,
            keepalive_s=keepalive_s,
            output=output,
            **wishes,
        )
        return FrameReader(
            Rendition(self.generation, output),
            window,
            self.shared,
            self.metrics,
            is_draining=lambda: self.is_draining,
            progress=lambda: GenerationProgress(completed_step_count=self.generation.completed_steps),
            release=release or (lambda frame_index: None),
        )

    def assert_is_video(self, responses, start, stop):
        assert [r.frame.frame_index for r in responses] == list(range(start, stop))
        for response in responses:
            assert response.frame.data == frame_bytes(5, response.frame.frame_index, self.size)
            assert response.frame.crc32c == google_crc32c.value(response.frame.data)


def read(response):
    """Frames come serialised."""
    return Response.FromString(response) if isinstance(response, bytes) else response


async def collect(reader):
    return [read(response) async for response in reader.responses()]


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


def test_readers_from_different_frames_follow_the_making(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
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


def test_explicit_end_does_not_wait_for_the_generation(generations, metrics, sample):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(2, 3)
        reader = video.reader(2, 4)
        video.assert_is_video(await collect(reader), 2, 4)
        assert reader.next_index == 4
        labels = {"method": "StreamFrames", "encoding": "raw"}
        assert sample("vinf_delivered_frames_total", **labels) == 2
        assert sample("vinf_delivered_bytes_total", **labels) == 2 * video.size

    run(scenario())


def test_large_frames_come_in_slices(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(0)
        responses = await collect(video.reader(0, 1, max_data_bytes=5000))
        assert [(r.frame.data_offset_bytes, len(r.frame.data)) for r in responses] == [
            (0, 5000),
            (5000, 5000),
            (10000, 2288),
        ]
        assert [r.frame.crc32c for r in responses] == [-1, -1, google_crc32c.value(frame_bytes(5, 0, video.size))]
        assert {r.frame.data_size_bytes for r in responses} == {12288}
        assert b"".join(r.frame.data for r in responses) == frame_bytes(5, 0, video.size)

    run(scenario())


def test_reader_of_a_failed_video_gets_what_comes_without_a_gap(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(0, 1, 3)
        generations.cancelled(video.generation)
        reader = video.reader()
        video.assert_is_video(await collect(reader), 0, 2)
        assert (reader.next_index, video.generation.state) == (2, CANCELLED)
        video.assert_is_video(await collect(video.reader(3)), 3, 4)

    run(scenario())


def test_silence_brings_keepalives_even_while_steps_are_reported(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)

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


def test_draining_ends_a_waiting_reader(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        reader = video.reader()
        reading = asyncio.create_task(collect(reader))
        await video.make(0)
        await asyncio.sleep(0)
        video.is_draining = True
        video.generation.changed.notify()
        assert len(await reading) == reader.next_index

    run(scenario())


def test_fifty_readers_cost_one_conversion_a_frame(generations, metrics, sample):
    async def scenario():
        video = Video(generations, metrics)
        output = Format(pixel_format=frame_pb2.PIXEL_FORMAT_RGBA8)
        readers = [asyncio.create_task(collect(video.reader(output=output))) for _ in range(50)]
        await video.make(*range(10))
        generations.succeed(video.generation)
        first, *others = [await reader for reader in readers]
        assert len(first) == 10
        assert all(other == first for other in others)

    run(scenario())
    assert sample("vinf_frame_conversions_total", encoding="raw") == 10


def test_readers_in_two_formats_get_each_their_own(generations, metrics, sample):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(*range(10))
        generations.succeed(video.generation)
        png = Format(encoding=frame_pb2.FRAME_ENCODING_PNG)
        raw, compressed = await asyncio.gather(collect(video.reader()), collect(video.reader(output=png)))
        video.assert_is_video(raw, 0, 10)
        for response in compressed:
            pixels = Image.open(io.BytesIO(response.frame.data)).tobytes()
            assert pixels == frame_bytes(5, response.frame.frame_index, video.size)
        revisions = [{response.frame.format_revision for response in each} for each in (raw, compressed)]
        assert [len(each) for each in revisions] == [1, 1]
        assert revisions[0] != revisions[1]

    run(scenario())
    assert [sample("vinf_frame_conversions_total", encoding=name) for name in ("raw", "png")] == [10, 10]


def test_slow_readers_do_not_grow_memory(generations, metrics):
    """Each stands at another frame, with a message in its hands; only what fits the budget is kept besides."""

    async def scenario():
        video = Video(generations, metrics, frame_count=40)
        video.shared = SharedFrames(metrics, budget_bytes=4 * video.size)
        await video.make(*range(40))
        generations.succeed(video.generation)
        slow = [video.reader(start, max_data_bytes=4096).responses() for start in range(40)]
        sizes = []
        parts = [[] for _ in slow]
        for _ in range(3):
            for stream, part in zip(slow, parts, strict=True):
                part.append(read(await anext(stream)).frame)
                sizes.append(video.shared.size_bytes)
        # A run of small frames is made together, so the newest one may stand above the budget for itself alone.
        assert max(sizes) <= 4 * video.size
        for index, part in enumerate(parts):
            assert b"".join(frame.data for frame in part) == frame_bytes(5, index, video.size)
        for stream in slow:
            await stream.aclose()

    run(scenario())


def test_latest_leaves_out_what_has_a_newer_one(generations, metrics, sample):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(0, 1, 2)
        stream = video.reader(only_latest=True).responses()
        gap = read(await anext(stream)).gap
        assert (gap.first_missing_frame_index, gap.next_frame_index, gap.reason) == (0, 2, "SKIPPED")
        assert read(await anext(stream)).frame.frame_index == 2
        await video.make(3)
        assert read(await anext(stream)).frame.frame_index == 3
        await video.make(*range(4, 10))
        generations.succeed(video.generation)
        assert read(await anext(stream)).gap.next_frame_index == 9
        assert read(await anext(stream)).frame.frame_index == 9
        assert [response async for response in stream] == []

    run(scenario())
    assert sample("vinf_left_out_frames_total", method="StreamFrames", reason="SKIPPED") == 7


def test_frames_that_were_dropped_leave_a_gap(generations, metrics, sample):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(*range(6))
        stream = video.reader().responses()
        assert read(await anext(stream)).frame.frame_index == 0
        video.generation.frames.drop_before(4)
        gap = read(await anext(stream)).gap
        assert (gap.first_missing_frame_index, gap.next_frame_index, gap.reason) == (1, 4, "FRAME_EVICTED")
        assert read(await anext(stream)).frame.frame_index == 4
        await stream.aclose()

    run(scenario())
    assert sample("vinf_left_out_frames_total", method="StreamFrames", reason="FRAME_EVICTED") == 3


def test_a_frame_dropped_while_it_is_read_leaves_a_gap(generations, metrics, monkeypatch):
    async def scenario():
        video = Video(generations, metrics)
        frames = video.generation.frames
        await video.make(*range(6))
        read_file = frames.read

        async def drop_and_read(*arguments):
            frames.drop_before(3)
            return await read_file(*arguments)

        monkeypatch.setattr(frames, "read", drop_and_read)
        stream = video.reader().responses()
        assert read(await anext(stream)).gap.next_frame_index == 3
        assert read(await anext(stream)).frame.data == frame_bytes(5, 3, video.size)
        await stream.aclose()

    run(scenario())


def test_steps_without_frames_are_told_twice_a_second_at_most(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        stream = video.reader().responses()
        began = asyncio.get_running_loop().time()

        async def work():
            while True:
                video.generation.completed_steps += 1
                video.generation.changed.notify()
                await asyncio.sleep(0.01)

        steps = asyncio.create_task(work())
        told = [read(await anext(stream)).progress.completed_step_count for _ in range(3)]
        assert asyncio.get_running_loop().time() - began >= 2 * 0.5
        assert told[0] < told[1] < told[2]
        steps.cancel()
        await stream.aclose()

    run(scenario())


def test_a_step_that_came_with_a_frame_is_not_told(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        stream = video.reader(keepalive_s=0.05).responses()
        video.generation.completed_steps += 1
        await video.make(0)
        assert read(await anext(stream)).frame.frame_index == 0
        assert read(await anext(stream)).WhichOneof("payload") == "keepalive"
        await stream.aclose()

    run(scenario())


def test_sent_frames_are_released_on_request(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(*range(10))
        for releases in (False, True):
            await collect(video.reader(0, 3, release=released.append, releases=releases))
            assert released == ([1, 2, 3] if releases else [])

    released = []
    run(scenario())


def test_a_deleted_generation_is_not_found(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(0)
        video.generation.frames.path.unlink()
        with pytest.raises(FrameDamagedError, match="No such file"):
            await collect(video.reader())
        video.generation.is_forgotten = True
        with pytest.raises(GenerationNotFoundError, match="was deleted"):
            await collect(video.reader())

    run(scenario())


def test_no_descriptor_stays_open(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(0)
        folder = video.generation.frames.path.parent
        before = sorted(opened_below(folder))
        stream = video.reader().responses()
        await anext(stream)
        assert sorted(opened_below(folder)) == before
        await stream.aclose()

    run(scenario())


def test_hundreds_of_readers_share_a_wakeup(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        readers = [asyncio.create_task(collect(video.reader(start % 10))) for start in range(300)]
        await video.make(*range(10))
        generations.succeed(video.generation)
        for start, reader in enumerate(readers):
            video.assert_is_video(await reader, start % 10, 10)

    run(scenario())


def test_presentation_times_are_exact():
    rate = generation_pb2.Rational(num=24000, den=1001)
    assert [presentation_time_us(i, rate) for i in (0, 1, 24000)] == [0, 41708, 1_001_000_000]


def test_frames_of_a_video_in_the_making_have_an_age(generations, metrics, sample, monkeypatch):
    async def scenario():
        video = Video(generations, metrics, frame_count=3)
        await video.make(0, 1)
        stream = video.reader(max_data_bytes=4096).responses()
        now = video.generation.frames.complete_time_us(0) / 1e6
        monkeypatch.setattr("vinf_server.front.metrics.delivery.time.time", lambda: now + 2)
        await anext(stream)
        assert sample("vinf_frame_age_at_send_seconds_sum", method="StreamFrames") == pytest.approx(2, abs=1e-3)
        await anext(stream)  # another slice of the same frame
        assert sample("vinf_frame_age_at_send_seconds_count", method="StreamFrames") == 1
        await video.make(2)
        generations.succeed(video.generation)
        assert [read(response).frame.frame_index async for response in stream][-1] == 2
        assert sample("vinf_frame_age_at_send_seconds_count", method="StreamFrames") == 3

    run(scenario())


def test_frames_of_a_recording_have_none(generations, metrics, sample):
    async def scenario():
        video = Video(generations, metrics, frame_count=3)
        await video.make(0, 1, 2)
        generations.succeed(video.generation)
        assert len(await collect(video.reader())) == 3

    run(scenario())
    assert sample("vinf_frame_age_at_send_seconds_count", method="StreamFrames") == 0


@pytest.mark.parametrize(
    ("output", "labels"),
    [
        (STORED, {"encoding": "raw", "pixel_format": "rgb24"}),
        (Format(pixel_format=frame_pb2.PIXEL_FORMAT_NV12), {"encoding": "raw", "pixel_format": "nv12"}),
        (Format(encoding=frame_pb2.FRAME_ENCODING_JPEG), {"encoding": "jpeg", "pixel_format": "rgb24"}),
    ],
)
def test_encoding_is_timed_once_a_frame(generations, metrics, sample, output, labels):
    async def scenario():
        video = Video(generations, metrics, frame_count=4)
        await video.make(*range(4))
        generations.succeed(video.generation)
        await asyncio.gather(collect(video.reader(output=output)), collect(video.reader(output=output)))

    run(scenario())
    assert sample("vinf_frame_encode_duration_seconds_count", **labels) == 4
    assert 0 < sample("vinf_frame_encode_duration_seconds_sum", **labels) < 10
