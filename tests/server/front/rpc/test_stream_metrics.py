"""Streams and pulls as numbers, over a real channel."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tests.server.fakes import frame_bytes, normalised_spec, until
from vinf.v1 import video_generation_service_pb2 as v1
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.generations.generation import Terms
from vinf_server.front.rpc.video_generation import VideoGenerationService

pytestmark = pytest.mark.fast


async def make(generations, generation, *indices):
    for index in indices:
        data = frame_bytes(1, index, generation.frames.frame_size)
        assert await generation.frames.write(index, 0, data, frame_size=len(data))
        generations.frame_stored(generation)


def begun(generations, **fields):
    generation, _ = generations.create(normalised_spec(**fields), Terms(), request_id="", validate_only=False)
    generations.start_next()
    return generation


def test_who_begins_behind_the_first_frame_or_event_resumes(behind, run, sample):
    async def scenario():
        async with behind() as server:
            generation, video = begun(server.generations, frame_count=2), server.video()
            await make(server.generations, generation, 0, 1)
            server.generations.succeed(generation)
            for start in (0, 1, 2):
                request = v1.StreamFramesRequest(generation_id=generation.generation_id, start_frame_index=start)
                assert [answer async for answer in video.StreamFrames(request)]
            for sequence in (0, 2):
                watch = v1.WatchGenerationRequest(generation_id=generation.generation_id, after_sequence=sequence)
                assert [answer async for answer in video.WatchGeneration(watch)]

    run(scenario())
    assert sample("vinf_stream_resumes_total", method="StreamFrames") == 2
    assert sample("vinf_stream_resumes_total", method="WatchGeneration") == 1


def test_pulls_that_wait_are_open(behind, run, sample):
    async def scenario():
        async with behind() as server:
            generation = begun(server.generations, frame_count=2)
            request = v1.PullFramesRequest(generation_id=generation.generation_id)
            request.wait.FromSeconds(15)
            pull = asyncio.ensure_future(server.video().PullFrames(request))
            await until(lambda: sample("vinf_active_streams", method="PullFrames") == 1)
            await make(server.generations, generation, 0)
            assert len((await pull).frames) == 1
            assert sample("vinf_active_streams", method="PullFrames") == 0

    run(scenario())


def test_time_of_a_client_that_takes_nothing_counts_as_stalled(generations, metrics, run, sample):
    """The transport asks for the next message when the client has taken the one before."""
    clock = SimpleNamespace(now=100.0)
    generations.leases._clock = lambda: clock.now

    def stalled(method):
        return sample("vinf_client_stall_seconds_total", method=method)

    async def scenario():
        generation, nobody = (
            begun(generations, frame_count=2),
            SimpleNamespace(auth_context=dict, peer=lambda: "ipv4:127.0.0.1:1"),
        )
        await make(generations, generation, 0)
        service = VideoGenerationService(generations, EngineStatus(), metrics)
        stream = service.StreamFrames(v1.StreamFramesRequest(generation_id=generation.generation_id), nobody)
        watch = service.WatchGeneration(v1.WatchGenerationRequest(generation_id=generation.generation_id), nobody)
        for responses in (stream, watch, stream):
            await anext(responses)  # the header, a snapshot, a frame
        clock.now += 5
        generations.leases.check()
        assert (stalled("StreamFrames"), stalled("WatchGeneration")) == (5, 5), "it is seen while it lasts"
        clock.now += 2
        await make(generations, generation, 1)
        await anext(stream)
        assert (stalled("StreamFrames"), stalled("WatchGeneration")) == (7, 5)
        for responses in (stream, watch):
            await responses.aclose()
        assert stalled("WatchGeneration") == 7

    run(scenario())
