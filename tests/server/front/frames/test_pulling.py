"""Frames for clients that ask for each lot."""

from __future__ import annotations

import asyncio
import math

import google_crc32c
import pytest

from tests.server.fakes import create, frame_bytes
from vinf.v1 import frame_pb2
from vinf_server.front.errors import FrameEvictedError, InvalidFieldsError
from vinf_server.front.frames.formats import Format
from vinf_server.front.frames.pulling import FramePuller, Pull, Response
from vinf_server.front.frames.shared import SharedFrames
from vinf_server.front.frames.video import Rendition

pytestmark = pytest.mark.fast


class Video:
    """A generation of ten frames."""

    def __init__(self, generations, metrics):
        self.generations = generations
        self.metrics = metrics
        self.generation = create(generations, frame_count=10, seed=5)
        generations.start_next()
        self.size = self.generation.frames.frame_size
        self.shared = SharedFrames(metrics)
        self.is_draining = False
        self.released = []

    async def make(self, *indices):
        for index in indices:
            await self.generation.frames.write(index, 0, frame_bytes(5, index, self.size), frame_size=self.size)
            self.generations.frame_stored(self.generation)

    def puller(self, start=0, *, max_frames=1, max_data_bytes=1 << 22, output=Format(), **wishes):  # noqa: B008
        pull = Pull(start=start, max_frames=max_frames, max_data_bytes=max_data_bytes, output=output, **wishes)
        rendition = Rendition(self.generation, output)
        return FramePuller(
            rendition,
            pull,
            self.shared,
            self.metrics,
            is_draining=lambda: self.is_draining,
            release=self.released.append,
        )

    async def pull(self, start=0, **wishes):
        puller = self.puller(start, **wishes)
        response = await puller.response(limit_s=math.inf)
        response.end_of_stream = puller.is_last(response)
        return Response.FromString(await puller.serialised(response))


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


def indices(response):
    return [frame.frame_index for frame in response.frames]


def test_what_is_there_comes_in_order(generations, metrics, sample):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(0, 1, 2, 4)
        response = await video.pull(max_frames=64)
        assert indices(response) == [0, 1, 2]
        for frame in response.frames:
            assert frame.data == frame_bytes(5, frame.frame_index, video.size)
            assert frame.crc32c == google_crc32c.value(frame.data)
        assert (response.next_frame_index, response.latest_frame_index, response.end_of_stream) == (3, 2, False)
        assert response.format.format_revision == response.frames[0].format_revision
        beyond = await video.pull(4, max_frames=64, known_revision=response.format.format_revision)
        assert (indices(beyond), beyond.latest_frame_index, beyond.HasField("format")) == ([4], 4, False)

    run(scenario())
    assert sample("vinf_delivered_frames_total", method="PullFrames", encoding="raw") == 4


def test_nothing_there_is_an_empty_reply(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        response = await video.pull(3)
        assert (indices(response), response.next_frame_index, response.latest_frame_index) == ([], 3, -1)
        assert not response.end_of_stream

    run(scenario())


def test_a_wait_ends_with_the_first_frame(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        waiting = asyncio.create_task(video.pull(1, wait_s=30.0, max_frames=5))
        await video.make(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        await video.make(1)
        assert indices(await waiting) == [1]

    run(scenario())


@pytest.mark.parametrize("how", ["cancelled", "draining"])
def test_a_wait_ends_when_no_frame_will_come(generations, metrics, how):
    async def scenario():
        video = Video(generations, metrics)
        waiting = asyncio.create_task(video.pull(1, wait_s=30.0))
        await asyncio.sleep(0)
        if how == "cancelled":
            generations.cancelled(video.generation)
        else:
            video.is_draining = True
            video.generation.changed.notify()
        response = await waiting
        assert (indices(response), response.end_of_stream) == ([], how == "cancelled")

    run(scenario())


def test_the_end_is_said_with_the_last_frame(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(*range(10))
        assert not (await video.pull(0, max_frames=9)).end_of_stream
        assert (await video.pull(0, max_frames=10)).end_of_stream
        assert (await video.pull(10)).end_of_stream

    run(scenario())


def test_a_lot_ends_where_the_reply_is_full(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(*range(10))
        response = await video.pull(max_frames=10, max_data_bytes=3 * video.size - 1)
        assert (indices(response), response.next_byte_offset) == ([0, 1], 0)

    run(scenario())


def test_a_large_frame_comes_in_slices(generations, metrics, sample):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(*range(10))
        offset, parts = 0, []
        while True:
            response = await video.pull(9, max_frames=3, max_data_bytes=5000, start_byte=offset)
            (frame,) = response.frames
            assert (frame.frame_index, frame.data_offset_bytes, frame.data_size_bytes) == (9, offset, video.size)
            parts.append(frame.data)
            offset = response.next_byte_offset
            if not offset:
                break
            assert (frame.crc32c, response.next_frame_index, response.end_of_stream) == (-1, 9, False)
        whole = b"".join(parts)
        assert whole == frame_bytes(5, 9, video.size)
        assert (frame.crc32c, response.next_frame_index) == (google_crc32c.value(whole), 10)
        assert response.end_of_stream

    run(scenario())
    assert sample("vinf_delivered_frames_total", method="PullFrames", encoding="raw") == 1


def test_a_slice_behind_the_end_of_a_compressed_frame_is_refused(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(0)
        png = Format(encoding=frame_pb2.FRAME_ENCODING_PNG)
        size = (await video.pull(output=png)).frames[0].data_size_bytes
        assert len((await video.pull(output=png, start_byte=size - 1)).frames[0].data) == 1
        with pytest.raises(InvalidFieldsError, match=rf"start_byte_offset: must be in \[0, {size - 1}\] bytes"):
            await video.pull(output=png, start_byte=size)

    run(scenario())


def test_latest_is_one_frame(generations, metrics, sample):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(0, 1, 2, 3)
        response = await video.pull(1, max_frames=5, only_latest=True)
        assert (indices(response), response.skipped_frame_count, response.next_frame_index) == ([3], 2, 4)
        # Half a frame is gone on with, whatever is newer.
        response = await video.pull(1, only_latest=True, start_byte=100)
        assert (indices(response), response.skipped_frame_count) == ([1], 0)

    run(scenario())
    assert sample("vinf_left_out_frames_total", method="PullFrames", reason="SKIPPED") == 2


def test_dropped_frames_are_told(generations, metrics, sample):
    async def scenario():
        video = Video(generations, metrics)
        await video.make(0, 1, 2, 3)
        video.generation.frames.drop_before(2)
        with pytest.raises(FrameEvictedError, match="first one that is has index 2"):
            await video.pull(0, wait_s=30.0)
        assert sample("vinf_left_out_frames_total", method="PullFrames", reason="FRAME_EVICTED") == 2
        response = await video.pull(2)
        assert (indices(response), response.first_available_frame_index, response.latest_frame_index) == ([2], 2, 3)
        latest = await video.pull(0, only_latest=True)
        assert (indices(latest), latest.skipped_frame_count) == ([3], 3)
        assert sample("vinf_left_out_frames_total", method="PullFrames", reason="FRAME_EVICTED") == 2

    run(scenario())


def test_frames_are_released(generations, metrics):
    async def scenario():
        video = Video(generations, metrics)
        await video.pull(0)
        await video.pull(0, release_before=7)
        assert video.released == [7]

    run(scenario())


def test_pulled_frames_have_an_age_while_the_video_is_made(generations, metrics, sample):
    def observed():
        return sample("vinf_frame_age_at_send_seconds_count", method="PullFrames")

    async def scenario():
        video = Video(generations, metrics)
        await video.make(*range(10))
        await video.pull(max_frames=2)
        assert observed() == 2
        await video.pull(2, max_frames=1, max_data_bytes=4096)
        await video.pull(2, max_frames=1, start_byte=4096)  # the rest of the same frame
        assert observed() == 3
        generations.succeed(video.generation)
        await video.pull(max_frames=10)
        assert observed() == 3

    run(scenario())
