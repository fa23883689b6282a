"""Calls as numbers, under the names that gRPC dashboards expect."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import generate_latest

from tests.server.fakes import frame_bytes, normalised_spec, until
from vinf.v1 import generation_pb2
from vinf.v1 import video_generation_service_pb2 as v1
from vinf_server.front.generations.generation import Terms
from vinf_server.front.rpc.call_counter import CODES, CallCounter
from vinf_server.front.rpc.doors import Doors
from vinf_server.front.rpc.tokens import TokenFile

pytestmark = pytest.mark.fast

VIDEO = "vinf.v1.VideoGenerationService"


@pytest.fixture
def calls(sample):
    """Read a number of a method."""

    def read(name, method, *, kind="unary", service=VIDEO, **labels):
        return sample(f"grpc_server_{name}", grpc_type=kind, grpc_service=service, grpc_method=method, **labels)

    return read


def test_statuses_have_the_names_that_go_gives_them():
    assert [CODES[number] for number in range(17)] == [
        *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"),
        *("PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented"),
        *("Internal", "Unavailable", "DataLoss", "Unauthenticated"),
    ]


def test_known_methods_start_at_zero_and_unknown_ones_do_not(behind, run, calls, metrics):
    async def scenario():
        async with behind() as server:
            assert calls("started_total", "CreateGeneration") == 0
            assert calls("handled_total", "CreateGeneration", grpc_code="ResourceExhausted") == 0
            assert calls("handling_seconds_count", "StreamFrames", kind="server_stream") == 0
            assert calls("started_total", "Check", service="grpc.health.v1.Health") == 0
            channel = server.channel()
            for path in (f"/{VIDEO}/Guess", "/no.such.Service/Guess"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(path)(b"")
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(scenario())
    assert "Guess" not in generate_latest(metrics.registry).decode()


def test_unary_calls_count_by_status(behind, run, calls):
    async def scenario():
        async with behind() as server:
            video, health = server.video(), health_pb2_grpc.HealthStub(server.channel())
            spec = generation_pb2.GenerationSpec(prompt="a red circle")
            made = await video.CreateGeneration(v1.CreateGenerationRequest(spec=spec))
            await video.GetGeneration(v1.GetGenerationRequest(generation_id=made.generation.generation_id))
            for generation_id in ("unknown", "none"):
                with pytest.raises(grpc.aio.AioRpcError):
                    await video.GetGeneration(v1.GetGenerationRequest(generation_id=generation_id))
            await health.Check(health_pb2.HealthCheckRequest())
            await until(lambda: calls("handling_seconds_count", "GetGeneration") == 3)

    run(scenario())
    assert calls("handled_total", "CreateGeneration", grpc_code="OK") == 1
    assert calls("handled_total", "GetGeneration", grpc_code="OK") == 1
    assert calls("handled_total", "GetGeneration", grpc_code="NotFound") == 2
    assert [calls(name, "GetGeneration") for name in ("started_total", "msg_received_total")] == [3, 3]
    assert calls("msg_sent_total", "GetGeneration") == 1
    assert 0 < calls("handling_seconds_sum", "GetGeneration") < 20
    assert calls("handled_total", "Check", service="grpc.health.v1.Health", grpc_code="OK") == 1


def test_a_bug_and_a_malformed_request_count_as_what_clients_see(behind, run, calls, generations, monkeypatch):
    async def scenario():
        async with behind() as server:
            with pytest.raises(grpc.aio.AioRpcError):
                await server.channel().unary_unary(f"/{VIDEO}/GetGeneration")(b"\xff")
            monkeypatch.setattr(generations, "get", None)
            with pytest.raises(grpc.aio.AioRpcError):
                await server.video().GetGeneration(v1.GetGenerationRequest(generation_id="x"))
            await until(lambda: calls("handling_seconds_count", "GetGeneration") == 2)

    run(scenario())
    assert calls("handled_total", "GetGeneration", grpc_code="InvalidArgument") == 1
    assert calls("handled_total", "GetGeneration", grpc_code="Internal") == 1


def test_streams_count_their_messages_and_how_they_end(behind, run, calls):
    def handled(code):
        return calls("handled_total", "StreamFrames", kind="server_stream", grpc_code=code)

    async def scenario():
        async with behind() as server:
            generations, video = server.generations, server.video()
            terms = Terms()
            whole, _ = generations.create(normalised_spec(frame_count=3), terms, request_id="", validate_only=False)
            generations.start_next()
            for index in range(3):
                data = frame_bytes(1, index, whole.frames.frame_size)
                await whole.frames.write(index, 0, data, frame_size=len(data))
                generations.frame_stored(whole)
            request = v1.StreamFramesRequest(generation_id=whole.generation_id)
            cut = video.StreamFrames(request)
            await cut.read()
            cut.cancel()
            await until(lambda: handled("Canceled") == 1)
            late = video.StreamFrames(request, timeout=1.0)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in late:
                    pass
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            # The client may be the first to see it, and then it cancels.
            await until(lambda: handled("Canceled") + handled("DeadlineExceeded") == 2)
            generations.succeed(whole)
            before = calls("msg_sent_total", "StreamFrames", kind="server_stream")
            assert len([response async for response in video.StreamFrames(request)]) == 5  # header, frames, end
            await until(lambda: handled("OK") == 1)
            assert calls("msg_sent_total", "StreamFrames", kind="server_stream") == before + 5

    run(scenario())
    assert calls("started_total", "StreamFrames", kind="server_stream") == 3
    assert calls("msg_received_total", "StreamFrames", kind="server_stream") == 3


@pytest.mark.parametrize(
    ("left_s", "error", "code"),
    [
        (None, asyncio.CancelledError, "Canceled"),
        (1.0, GeneratorExit, "Canceled"),
        (0.0, asyncio.CancelledError, "DeadlineExceeded"),
        (1.0, RuntimeError, "Unknown"),
    ],
)
def test_who_is_ended_from_outside_was_late_or_cancelled(metrics, calls, left_s, error, code):
    async def handler(request, context):
        raise error

    async def scenario():
        counter = CallCounter(metrics.calls, [v1.DESCRIPTOR.services_by_name["VideoGenerationService"]])
        details = SimpleNamespace(method=f"/{VIDEO}/GetGeneration")
        found = asyncio.Future()
        found.set_result(grpc.unary_unary_rpc_method_handler(handler))
        wrapped = await counter.intercept_service(lambda _: found, details)
        with pytest.raises(error):
            await wrapped.unary_unary(None, SimpleNamespace(time_remaining=lambda: left_s))

    asyncio.run(scenario())
    assert calls("handled_total", "GetGeneration", grpc_code=code) == 1


def test_both_sides_of_reflection_are_counted(behind, run, calls):
    reflected = {"kind": "bidi_stream", "service": "grpc.reflection.v1alpha.ServerReflection"}

    async def scenario():
        async with behind() as server:
            stub = reflection_pb2_grpc.ServerReflectionStub(server.channel())
            wanted = [reflection_pb2.ServerReflectionRequest(list_services="")] * 2
            assert len([answer async for answer in stub.ServerReflectionInfo(iter(wanted))]) == 2
            await until(lambda: calls("handling_seconds_count", "ServerReflectionInfo", **reflected) == 1)

    run(scenario())
    for name in ("msg_received_total", "msg_sent_total"):
        assert calls(name, "ServerReflectionInfo", **reflected) == 2
    assert calls("handled_total", "ServerReflectionInfo", grpc_code="OK", **reflected) == 1


def test_calls_that_are_refused_at_the_door_count(behind, run, calls, tmp_path):
    (tmp_path / "tokens").write_text("")

    async def scenario():
        async with behind(Doors(tokens=TokenFile(tmp_path / "tokens"))) as server:
            with pytest.raises(grpc.aio.AioRpcError):
                await server.video().GetGeneration(v1.GetGenerationRequest())
            await until(lambda: calls("handled_total", "GetGeneration", grpc_code="Unauthenticated") == 1)

    run(scenario())
    assert calls("started_total", "GetGeneration") == 1
