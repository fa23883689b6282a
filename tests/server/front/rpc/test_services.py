"""The public services over a real channel, with a group that a test plays."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.server.fakes import frame_bytes, model_limits, room_for, until
from tests.support.pictures import encoded, noise, refused_files
from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import (
    generation_pb2,
    server_info_service_pb2,
    server_info_service_pb2_grpc,
    video_generation_service_pb2,
    video_generation_service_pb2_grpc,
)
from vinf_server.flag_values import Address, RankMesh
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.frames.previews import make_preview
from vinf_server.front.generations.generation import Failure
from vinf_server.front.rpc import images
from vinf_server.front.rpc.health import SERVICE, HealthService
from vinf_server.front.rpc.images import decode
from vinf_server.front.rpc.server import AddressInUseError, start_public_server
from vinf_server.front.rpc.server_info import ServerInfoService
from vinf_server.front.rpc.video_generation import VideoGenerationService

pytestmark = pytest.mark.fast

v1 = video_generation_service_pb2
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def serving(generations, metrics):
    """A public server on a free port."""

    @asynccontextmanager
    async def serve(*, memory=None):
        status = EngineStatus()
        status.known_report = link_pb2.ReadyReport(world_size=2, model=model_limits(), memory=memory)
        health = HealthService()
        server, address = await start_public_server(
            Address("127.0.0.1", 0),
            video_generation=VideoGenerationService(generations, status, metrics),
            server_info=ServerInfoService(generations, status, max_waiting=3, disk_budget=0, mesh=RankMesh()),
            health=health,
            metrics=metrics,
        )
        async with grpc.aio.insecure_channel(str(address)) as channel:
            try:
                yield SimpleNamespace(
                    address=address,
                    channel=channel,
                    generations=generations,
                    health=health,
                    status=status,
                    video=video_generation_service_pb2_grpc.VideoGenerationServiceStub(channel),
                    info=server_info_service_pb2_grpc.ServerInfoServiceStub(channel),
                    health_stub=health_pb2_grpc.HealthStub(channel),
                )
            finally:
                await server.stop(None)

    return serve


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(packed).details[0].Unpack(info)
    assert info.domain == "vinf"
    return info


async def rest(stream) -> list:
    """What a stream still has to say."""
    messages = []
    while (message := await stream.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def failure(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (rest(call) if hasattr(call, "read") else call)
    return caught.value.code(), error_info(caught.value).reason


def create_request(**fields):
    return v1.CreateGenerationRequest(spec=generation_pb2.GenerationSpec(**({"prompt": "a red circle"} | fields)))


async def make_frames(server, generation_id, *indices):
    generation = server.generations.get(generation_id)
    for index in indices:
        data = frame_bytes(1, index, generation.frames.frame_size)
        await generation.frames.write(index, 0, data, frame_size=len(data))
        server.generations.frame_stored(generation)
    return generation


def test_create_get_list_cancel(serving):
    async def scenario():
        async with serving() as server:
            made = (await server.video.CreateGeneration(create_request(seed=3))).generation
            assert made.state == generation_pb2.GENERATION_STATE_PENDING
            assert made.resolved_spec.frame_count == 16
            assert made.progress.stage == generation_pb2.GENERATION_STAGE_QUEUED
            assert made.HasField("create_time")
            assert not made.HasField("start_time")
            got = await server.video.GetGeneration(v1.GetGenerationRequest(generation_id=made.generation_id))
            assert got.generation == made
            second = (await server.video.CreateGeneration(create_request())).generation
            page = await server.video.ListGenerations(v1.ListGenerationsRequest(page_size=1))
            assert [g.generation_id for g in page.generations] == [second.generation_id]
            request = v1.ListGenerationsRequest(page_size=1, page_token=page.next_page_token)
            page = await server.video.ListGenerations(request)
            assert [g.generation_id for g in page.generations] == [made.generation_id]
            assert page.next_page_token == ""
            request = v1.CancelGenerationRequest(generation_id=made.generation_id)
            cancelled = (await server.video.CancelGeneration(request)).generation
            assert cancelled.state == generation_pb2.GENERATION_STATE_CANCELLED
            assert cancelled.error.reason == "CANCEL_REQUESTED"

    run(scenario())


def test_every_error_has_its_status(serving, sample):
    async def scenario():
        async with serving() as server:
            code = grpc.StatusCode
            video = server.video
            unknown = "0" * 12
            assert await failure(video.CreateGeneration(create_request(width=1))) == (
                code.INVALID_ARGUMENT,
                "INVALID_FIELD",
            )
            assert await failure(video.CreateGeneration(create_request(model="x"))) == (
                code.NOT_FOUND,
                "MODEL_NOT_FOUND",
            )
            for call in (
                video.GetGeneration(v1.GetGenerationRequest(generation_id=unknown)),
                video.CancelGeneration(v1.CancelGenerationRequest()),
                video.WatchGeneration(v1.WatchGenerationRequest(generation_id=unknown)),
                video.StreamFrames(v1.StreamFramesRequest(generation_id="ü" * 5000)),
            ):
                assert await failure(call) == (code.NOT_FOUND, "GENERATION_NOT_FOUND")
            for _ in range(3):
                await video.CreateGeneration(create_request())
            assert await failure(video.CreateGeneration(create_request())) == (code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            server.status.known_report = None
            assert await failure(video.CreateGeneration(create_request())) == (code.UNAVAILABLE, "WORKERS_NOT_READY")
            server.generations.drain()
            assert await failure(video.CreateGeneration(create_request())) == (code.UNAVAILABLE, "SERVER_DRAINING")

    run(scenario())
    reasons = {"invalid": 2, "queue_full": 1, "not_ready": 1, "draining": 1}
    assert {r: sample("vinf_admission_rejections_total", reason=r) for r in reasons} == reasons


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"], ids=["noise", "cut", "no UTF-8"])
@pytest.mark.parametrize("method", ["CreateGeneration", "GetGeneration", "StreamFrames"])
def test_malformed_request(serving, data, method):
    async def scenario():
        async with serving() as server:
            path = f"/vinf.v1.VideoGenerationService/{method}"
            kind = server.channel.unary_stream if method == "StreamFrames" else server.channel.unary_unary
            assert await failure(kind(path)(data)) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")

    run(scenario())


def test_case_24_noise_never_brings_the_server_down(serving, caplog):
    async def scenario():
        noise = random.Random(7)
        async with serving() as server:
            calls = [
                kind(f"/vinf.v1.VideoGenerationService/{method}")
                for kind, method in (
                    (server.channel.unary_unary, "CreateGeneration"),
                    (server.channel.unary_unary, "GetGeneration"),
                    (server.channel.unary_stream, "StreamFrames"),
                )
            ]

            async def send(count):
                for number in range(count):
                    call = calls[number % len(calls)](noise.randbytes(noise.randrange(1, 60)))
                    assert await call.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)

            await send(500)  # whatever is made once is made now
            before = psutil.Process().memory_info().rss
            await asyncio.gather(*(send(1000) for _ in range(10)))
            assert psutil.Process().memory_info().rss - before < 4 << 20
            await server.info.GetServerInfo(server_info_service_pb2.GetServerInfoRequest())

    asyncio.run(asyncio.wait_for(scenario(), 120))
    assert not caplog.records


def test_everything_wrong_at_once_in_another_alphabet_fits_the_trailers(serving):
    async def scenario():
        async with serving() as server:
            words = " ".join("ж" * 30 for _ in range(5))
            scope = generation_pb2.TemporalScope(
                mode=2, local_window_frames=-1, global_frames=-1, phase_timestep=-1, phase_bias=-1
            )
            request = create_request(
                prompt=words, negative_prompt=words, width=1, height=1, seed=-1, frame_count=-1, temporal_scope=scope
            )
            request.request_id = "ж" * 36
            code = grpc.StatusCode.INVALID_ARGUMENT
            assert await failure(server.video.CreateGeneration(request)) == (code, "INVALID_FIELD")

    run(scenario())


def test_fifty_calls_with_one_request_id_make_one_generation(serving):
    async def scenario():
        async with serving() as server:
            request = create_request()
            request.request_id = "123e4567-e89b-12d3-a456-426614174000"
            replies = await asyncio.gather(*(server.video.CreateGeneration(request) for _ in range(50)))
            assert len({reply.generation.generation_id for reply in replies}) == 1
            assert sorted(reply.deduplicated for reply in replies) == [False] + [True] * 49

    run(scenario())


def test_retry_is_not_refused_for_its_size(serving):
    """Other ranks may have less room than those that the generation was admitted for."""

    async def scenario():
        async with serving(memory=room_for(20)) as server:
            request = create_request(frame_count=20)
            request.request_id = "123e4567-e89b-12d3-a456-426614174000"
            first = await server.video.CreateGeneration(request)
            server.status.known_report = link_pb2.ReadyReport(world_size=1, model=model_limits(), memory=room_for(19))
            again = await server.video.CreateGeneration(request)
            assert again.deduplicated
            assert again.generation.generation_id == first.generation.generation_id
            request.request_id = ""
            code = await failure(server.video.CreateGeneration(request))
            assert code[1] == "SPEC_TOO_LARGE"

    run(scenario())


def test_retry_is_not_refused_for_a_deadline_that_has_passed_meanwhile(serving):
    async def scenario():
        async with serving() as server:
            request = create_request(seed=5)
            request.request_id = "123e4567-e89b-12d3-a456-426614174000"
            request.deadline.GetCurrentTime()
            request.deadline.seconds += 60
            first = await server.video.CreateGeneration(request)
            request.deadline.seconds -= 120
            again = await server.video.CreateGeneration(request)
            assert again.deduplicated
            assert again.generation.generation_id == first.generation.generation_id
            request.request_id = ""
            assert (await failure(server.video.CreateGeneration(request)))[1] == "INVALID_FIELD"

    run(scenario())


def test_a_full_disk_is_looked_at_again_before_a_generation_is_refused(serving):
    async def scenario():
        async with serving() as server:
            server.generations.keeper.distrust()
            await server.video.CreateGeneration(create_request())
            server.generations.keeper._disk.budget_bytes = 1
            await server.generations.keeper.look()
            assert (await failure(server.video.CreateGeneration(create_request())))[1] == "DISK_FULL"

    run(scenario())


def test_frames_of_a_deleted_generation_are_kept_in_memory_no_longer(serving, metrics):
    async def scenario():
        async with serving() as server:
            made = [(await server.video.CreateGeneration(create_request())).generation for _ in range(2)]
            for generation in made:
                server.generations.start_next()
                await make_frames(server, generation.generation_id, *range(16))
                server.generations.succeed(server.generations.get(generation.generation_id))
                await rest(server.video.StreamFrames(v1.StreamFramesRequest(generation_id=generation.generation_id)))
            both = metrics.registry.get_sample_value("vinf_frame_cache_bytes")
            await server.video.DeleteGeneration(v1.DeleteGenerationRequest(generation_id=made[0].generation_id))
            assert metrics.registry.get_sample_value("vinf_frame_cache_bytes") == both / 2 > 0

    run(scenario())


def test_bug_is_internal_and_tells_nothing(serving, monkeypatch, caplog):
    async def scenario():
        async with serving() as server:
            monkeypatch.setattr(server.generations, "get", lambda *_, **__: 1 / 0)
            assert await failure(server.video.GetGeneration(v1.GetGenerationRequest())) == (
                grpc.StatusCode.INTERNAL,
                "INTERNAL",
            )

    run(scenario())
    assert "ZeroDivisionError" in caplog.text


def test_case_23_too_large_a_request_leaves_the_server_alive(serving):
    async def scenario():
        async with serving() as server:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.video.CreateGeneration(create_request(prompt="a" * (17 << 20)))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await server.info.GetServerInfo(server_info_service_pb2.GetServerInfoRequest())

    run(scenario())


def test_watch_ends_with_the_terminal_state(serving):
    async def scenario():
        async with serving() as server:
            made = (await server.video.CreateGeneration(create_request(frame_count=2))).generation
            watch = server.video.WatchGeneration(v1.WatchGenerationRequest(generation_id=made.generation_id))
            assert (await watch.read()).generation == made
            server.generations.start_next()
            assert (await watch.read()).generation.state == generation_pb2.GENERATION_STATE_RUNNING
            server.generations.succeed(await make_frames(server, made.generation_id, 0, 1))
            last = (await rest(watch))[-1].generation
            assert last.state == generation_pb2.GENERATION_STATE_SUCCEEDED
            assert last.progress.completed_frame_count == 2
            assert last.HasField("end_time")

    run(scenario())


def test_watch_of_a_server_that_drains(serving):
    async def scenario():
        async with serving() as server:
            made = (await server.video.CreateGeneration(create_request())).generation
            watch = server.video.WatchGeneration(v1.WatchGenerationRequest(generation_id=made.generation_id))
            await watch.read()
            server.generations.drain()
            assert await failure(watch) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")

    run(scenario())


def test_stream_is_header_frames_end(serving, sample):
    async def scenario():
        async with serving() as server:
            made = (await server.video.CreateGeneration(create_request(frame_count=3))).generation
            server.generations.start_next()
            stream = server.video.StreamFrames(v1.StreamFramesRequest(generation_id=made.generation_id))
            header = (await stream.read()).header
            assert (header.width, header.frame_count, header.frame_size_bytes) == (64, 3, 12288)
            assert header.frame_rate == generation_pb2.Rational(num=24, den=1)
            server.generations.succeed(await make_frames(server, made.generation_id, 1, 0, 2))
            *frames, end = await rest(stream)
            assert [r.frame.frame_index for r in frames] == [0, 1, 2]
            assert [r.frame.presentation_time_us for r in frames] == [0, 41666, 83333]
            assert [r.frame.data for r in frames] == [frame_bytes(1, i, 12288) for i in range(3)]
            assert all(r.frame.generate_time_us > 0 for r in frames)
            assert end.end == v1.StreamEnd(state=generation_pb2.GENERATION_STATE_SUCCEEDED, next_frame_index=3)
            again = v1.StreamFramesRequest(generation_id=made.generation_id, start_frame_index=3)
            responses = [r.WhichOneof("payload") async for r in server.video.StreamFrames(again)]
            assert responses == ["header", "end"]

    run(scenario())
    labels = {"method": "StreamFrames", "encoding": "raw"}
    assert sample("vinf_delivered_frames_total", **labels) == 3
    assert sample("vinf_delivered_bytes_total", **labels) == 3 * 12288
    assert sample("vinf_active_streams", method="StreamFrames") == 0


def test_stream_of_a_server_that_drains_says_where_to_go_on(serving):
    async def scenario():
        async with serving() as server:
            made = (await server.video.CreateGeneration(create_request())).generation
            server.generations.start_next()
            await make_frames(server, made.generation_id, 0)
            stream = server.video.StreamFrames(v1.StreamFramesRequest(generation_id=made.generation_id))
            assert [(await stream.read()).WhichOneof("payload") for _ in range(2)] == ["header", "frame"]
            server.generations.drain()
            (last,) = await rest(stream)
            assert last.end.state == generation_pb2.GENERATION_STATE_RUNNING
            assert last.end.error.reason == "SERVER_DRAINING"
            assert last.end.next_frame_index == 1

    run(scenario())


def test_reader_that_leaves_frees_its_stream(serving, sample):
    async def scenario():
        async with serving() as server:
            made = (await server.video.CreateGeneration(create_request())).generation
            stream = server.video.StreamFrames(v1.StreamFramesRequest(generation_id=made.generation_id))
            await stream.read()
            assert sample("vinf_active_streams", method="StreamFrames") == 1
            stream.cancel()
            await until(lambda: sample("vinf_active_streams", method="StreamFrames") == 0)
            assert server.generations.get(made.generation_id).is_terminal is False

    run(scenario())


def test_server_info_shows_what_the_validator_enforces(serving):
    async def scenario():
        async with serving() as server:
            request = server_info_service_pb2.GetServerInfoRequest()
            info = (await server.info.GetServerInfo(request)).server_info
            (model,) = info.models
            assert (model.name, model.max_frame_count, model.size_multiple) == ("scripted", 4096, 16)
            assert model.default_temporal_scope.mode == generation_pb2.TEMPORAL_SCOPE_MODE_CUSTOM
            assert model.default_solver == generation_pb2.SOLVER_DDIM
            assert info.limits.max_waiting_generation_count == 3
            assert not info.ready
            assert (model.max_frame_count_at_default_size, info.limits.rank_memory_budget_bytes) == (0, 0), "unknown"
            server.status.known_report = None
            assert not (await server.info.GetServerInfo(request)).server_info.models

    run(scenario())


def test_what_does_not_fit_is_refused_and_server_info_says_how_much_does(serving, sample):
    async def scenario():
        async with serving(memory=room_for(20)) as server:
            request = server_info_service_pb2.GetServerInfoRequest()
            info = (await server.info.GetServerInfo(request)).server_info
            assert info.limits.rank_memory_budget_bytes == 52 << 20
            (model,) = info.models
            most = model.max_frame_count_at_default_size
            assert most == 20
            size = {"width": model.default_width, "height": model.default_height}
            await server.video.CreateGeneration(create_request(frame_count=most, **size))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.video.CreateGeneration(create_request(frame_count=most + 1, **size))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            refusal = error_info(caught.value)
            assert (refusal.reason, refusal.metadata["maxFrameCount"]) == ("SPEC_TOO_LARGE", "20")
            assert await failure(server.video.CreateGeneration(create_request(frame_count=most + 1, seed=-1))) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_FIELD",
            )

    run(scenario())
    assert sample("vinf_admission_rejections_total", reason="too_large") == 1


def test_health_follows_readiness_and_ends_its_watches(serving):
    async def scenario():
        async with serving() as server:

            async def check(name):
                return (await server.health_stub.Check(health_pb2.HealthCheckRequest(service=name))).status

            assert (await check(""), await check(SERVICE)) == (SERVING, NOT_SERVING)
            watch = server.health_stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == NOT_SERVING
            server.health.set_ready(True)
            assert (await watch.read()).status == SERVING
            unknown = server.health_stub.Watch(health_pb2.HealthCheckRequest(service="x"))
            assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check("x")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            server.health.set_ready(False)
            server.health.close()
            assert [response.status for response in await rest(watch)] == [NOT_SERVING]

    run(scenario())


def test_reflection_lists_every_service(serving):
    async def scenario():
        async with serving() as server:
            stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
            call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            names = {service.name for service in (await call.read()).list_services_response.service}
            call.cancel()
            assert {SERVICE, "vinf.v1.ServerInfoService", "grpc.health.v1.Health"} < names

    run(scenario())


def test_case_71_a_taken_port_is_refused(serving, generations, metrics):
    async def scenario():
        async with serving() as server:
            with pytest.raises(AddressInUseError, match="Address already in use"):
                await start_public_server(
                    server.address,
                    video_generation=VideoGenerationService(generations, server.status, metrics),
                    server_info=ServerInfoService(
                        generations, server.status, max_waiting=3, disk_budget=0, mesh=RankMesh()
                    ),
                    health=HealthService(),
                    metrics=metrics,
                )

    run(scenario())


def test_watch_tells_every_event_and_goes_on_after_one(serving):
    async def scenario():
        async with serving() as server:
            made = (await server.video.CreateGeneration(create_request(frame_count=1))).generation
            request = v1.WatchGenerationRequest(generation_id=made.generation_id)
            watch = server.video.WatchGeneration(request)
            assert [event.sequence for event in (await watch.read()).events] == [1]
            generation = server.generations.get(made.generation_id)
            server.generations.start_next()
            server.generations.suspend(generation, "DISK_FULL", "no room")
            response = await watch.read()
            assert [(e.sequence, e.state_reason, e.message) for e in response.events] == [
                (2, "", ""),
                (3, "DISK_FULL", "no room"),
            ]
            assert response.generation.sequence == 3
            server.generations.cancel(made.generation_id)
            assert [e.state for r in await rest(watch) for e in r.events] == [generation_pb2.GENERATION_STATE_CANCELLED]
            for after, expected in ((0, [1, 2, 3, 4]), (3, [4]), (4, []), (2**63 - 1, [])):
                request.after_sequence = after
                (response,) = await rest(server.video.WatchGeneration(request))
                assert [event.sequence for event in response.events] == expected
                assert response.generation.HasField("expire_time")
            request.after_sequence = -1
            assert await failure(server.video.WatchGeneration(request)) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_FIELD",
            )

    run(scenario())


def preview(frame_index, step):
    return make_preview(bytes(192), 8, 8, frame_index=frame_index, completed_steps=step)


def shown(response):
    return [(preview.frame_index, preview.completed_step_count) for preview in response.previews]


def test_watch_brings_the_newest_preview_of_each_frame_once(serving):
    async def scenario():
        async with serving() as server:
            made = (await server.video.CreateGeneration(create_request(frame_count=4))).generation
            generation = server.generations.get(made.generation_id)
            server.generations.start_next()
            request = v1.WatchGenerationRequest(generation_id=made.generation_id, with_previews=True)
            watch = server.video.WatchGeneration(request)
            assert shown(await watch.read()) == []
            generation.previews.put([preview(0, 1), preview(3, 1)])
            generation.previews.put([preview(3, 2)])
            response = await watch.read()
            assert shown(response) == [(0, 1), (3, 2)], "a burst is one message"
            assert response.generation.state == generation_pb2.GENERATION_STATE_RUNNING
            assert not response.events
            server.generations.progressed(generation, 3, 2, 0.5)
            assert shown(await watch.read()) == [], "nothing comes twice"
            generation.previews.put([preview(0, 4)])
            assert shown(await watch.read()) == [(0, 4)]
            late = server.video.WatchGeneration(request)
            assert shown(await late.read()) == [(0, 4), (3, 2)], "who comes late sees what there is"
            server.generations.fail(generation, Failure(13, "INTERNAL", "x"))
            for stream in (watch, late):
                assert [shown(response) for response in await rest(stream)] == [[]]
            (response,) = await rest(server.video.WatchGeneration(request))
            assert shown(response) == [], "they are gone with the end of the generation"

    run(scenario())


def test_previews_wake_only_who_asks_for_them(serving):
    async def scenario():
        async with serving() as server:
            made = (await server.video.CreateGeneration(create_request(frame_count=4))).generation
            generation = server.generations.get(made.generation_id)
            watch = server.video.WatchGeneration(v1.WatchGenerationRequest(generation_id=made.generation_id))
            await watch.read()
            woken = asyncio.create_task(generation.changed.wait())
            await asyncio.sleep(0)
            generation.previews.put([preview(0, 1)])
            await asyncio.sleep(0)
            assert not woken.done()
            server.generations.cancel(made.generation_id)
            await woken
            (last,) = await rest(watch)
            assert last.generation.state == generation_pb2.GENERATION_STATE_CANCELLED
            assert not last.previews

    run(scenario())


def test_delete_ends_readers_and_is_not_found_twice(serving):
    async def scenario():
        async with serving() as server:
            made = (await server.video.CreateGeneration(create_request(frame_count=200))).generation
            request = v1.DeleteGenerationRequest(generation_id=made.generation_id)
            assert await failure(server.video.DeleteGeneration(request)) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "WRONG_STATE",
            )
            server.generations.start_next()
            generation = await make_frames(server, made.generation_id, *range(200))
            server.generations.succeed(generation)
            gone = (grpc.StatusCode.NOT_FOUND, "GENERATION_NOT_FOUND")
            stream = server.video.StreamFrames(v1.StreamFramesRequest(generation_id=made.generation_id))
            assert [(await stream.read()).WhichOneof("payload") for _ in range(2)] == ["header", "frame"]
            await server.video.DeleteGeneration(request)
            assert await failure(stream) == gone
            assert not generation.frames.path.parent.exists()
            assert await failure(server.video.DeleteGeneration(request)) == gone
            get = v1.GetGenerationRequest(generation_id=made.generation_id)
            assert await failure(server.video.GetGeneration(get)) == gone

    run(scenario())


def test_images_are_decoded_beside_the_loop_and_told_as_digests(serving, monkeypatch):
    """While one is decoded the server answers others; what is decoded goes to the generation, and nowhere else."""
    entered, may_go = threading.Event(), threading.Event()
    threads = []

    def held(data, width, height):
        threads.append(threading.current_thread())
        entered.set()
        assert may_go.wait(10)
        return decode(data, width, height)

    monkeypatch.setattr(images, "decode", held)
    picture = noise()
    file = encoded(picture)

    async def scenario():
        async with serving() as server:
            info = (await server.info.GetServerInfo(server_info_service_pb2.GetServerInfoRequest())).server_info
            assert info.models[0].image_frames == server_info_service_pb2.IMAGE_FRAMES_FIRST_AND_LAST
            assert info.models[0].max_image_count == 2
            assert (info.limits.max_image_bytes, info.limits.max_image_pixels) == (12 << 20, 1 << 24)
            spec = generation_pb2.GenerationSpec(
                prompt="a red circle", image_conditions=[generation_pb2.ImageCondition(frame_index=15, image=file)]
            )
            creating = server.video.CreateGeneration(v1.CreateGenerationRequest(spec=spec))
            await asyncio.to_thread(entered.wait, 10)
            assert not (await server.video.ListGenerations(v1.ListGenerationsRequest())).generations
            may_go.set()
            made = (await creating).generation
            (told,) = made.resolved_spec.image_conditions
            assert (told.frame_index, told.image) == (15, b"")
            assert told.image_sha256 == hashlib.sha256(file).hexdigest()
            generation = server.generations.get(made.generation_id)
            assert await generation.images.read() == (picture.tobytes(),)
            assert threads[0] is not threading.main_thread()
            # The very spec of a reply lacks the file.
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.video.CreateGeneration(v1.CreateGenerationRequest(spec=made.resolved_spec))
            assert caught.value.details() == "spec.image_conditions[0].image: must not be empty"

    run(scenario())


def test_case_15_a_server_refuses_hostile_images_one_by_one_and_lives(serving):
    async def scenario():
        async with serving() as server:
            for data, words in refused_files().values():
                request = create_request(image_conditions=[generation_pb2.ImageCondition(image=data)])
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await server.video.CreateGeneration(request)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert error_info(caught.value).reason == "INVALID_FIELD"
                assert caught.value.details() == f"spec.image_conditions[0].image: {words}"
            good = create_request(image_conditions=[generation_pb2.ImageCondition(image=encoded(noise()))])
            assert (await server.video.CreateGeneration(good)).generation.resolved_spec.image_conditions

    run(scenario())
