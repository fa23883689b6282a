"""Tokens: who may call, and who sees what."""

from __future__ import annotations

import hashlib
import os
import uuid
from datetime import datetime

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from vinf.v1 import generation_pb2, server_info_service_pb2, server_info_service_pb2_grpc
from vinf.v1 import video_generation_service_pb2 as v1
from vinf_server.config import ServeConfig
from vinf_server.flag_values import Address, ConfigError
from vinf_server.front.errors import UnauthenticatedError
from vinf_server.front.rpc.doors import Doors
from vinf_server.front.rpc.tokens import TokenFile
from vinf_server.front.rpc.video_generation import VideoGenerationService

pytestmark = pytest.mark.fast

UNAUTHENTICATED, NOT_FOUND = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND
STREAMS = ("WatchGeneration", "StreamFrames")


def line(name, token, expiry=""):
    return f"{name} {hashlib.sha256(token.encode()).hexdigest()} {expiry}\n"


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(
        "# clients\n\n"
        + line("alice", "for-alice")
        + line("alice", "alice-second", "2999-12-31  # the next one")
        + line("bob", "for-bob", "2999-12-31T23:59:59+02:00")
        + line("carol", "for-carol", "2020-01-31")
    )
    return path


@pytest.fixture
def doors(tokens):
    return Doors(tokens=TokenFile(tokens, look_interval_s=0))


async def failure(call):
    """Code, reason and text of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return caught.value.code(), info.reason, caught.value.details()


def create_request(**fields):
    return v1.CreateGenerationRequest(spec=generation_pb2.GenerationSpec(prompt="a red circle"), **fields)


def calls_by_id(video, generation_id, metadata):
    """One call of every RPC that names a generation and is served."""
    found = {}
    for method in v1.DESCRIPTOR.services_by_name["VideoGenerationService"].methods:
        if "generation_id" in method.input_type.fields_by_name and method.name in vars(VideoGenerationService):
            request = getattr(v1, method.input_type.name)(generation_id=generation_id)
            found[method.name] = lambda name=method.name, request=request: getattr(video, name)(
                request, metadata=metadata
            )
    return found


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "TOKEN_MISSING"),
        (bearer("wrong"), "TOKEN_INVALID"),
        (bearer("for-alic"), "TOKEN_INVALID"),
        ((("authorization", "Basic for-alice"),), "TOKEN_INVALID"),
        ((("authorization", "for-alice"),), "TOKEN_INVALID"),
        ((("authorization", "Bearer "),), "TOKEN_INVALID"),
        (bearer("for-alice") + bearer("for-bob"), "TOKEN_INVALID"),
        (bearer("for-carol"), "TOKEN_EXPIRED"),
    ],
)
def test_case_44_bad_tokens_reach_nothing(behind, doors, run, metadata, reason):
    async def scenario():
        async with behind(doors) as server:
            video = server.video()
            expected = (UNAUTHENTICATED, reason)
            assert (await failure(video.CreateGeneration(create_request(), metadata=metadata)))[:2] == expected
            listing = video.ListGenerations(v1.ListGenerationsRequest(), metadata=metadata)
            assert (await failure(listing))[:2] == expected
            for name, call in calls_by_id(video, "x", metadata).items():
                found = await failure(call())
                assert found[:2] == expected, name
                assert "for-" not in found[2], "a token is repeated"
            info = server_info_service_pb2_grpc.ServerInfoServiceStub(server.channel())
            request = server_info_service_pb2.GetServerInfoRequest()
            assert (await failure(info.GetServerInfo(request, metadata=metadata)))[:2] == expected
            reflect = reflection_pb2_grpc.ServerReflectionStub(server.channel())
            assert (await failure(reflect.ServerReflectionInfo(metadata=metadata)))[:2] == expected
            unknown = server.channel().unary_unary("/vinf.v1.VideoGenerationService/No")
            assert (await failure(unknown(b"", metadata=metadata)))[:2] == expected
            assert not server.generations.page(before_id="", states=(), limit=1)

    run(scenario())


def test_case_23_a_stranger_is_refused_before_the_request_is_read(behind, doors, run):
    async def scenario():
        async with behind(doors) as server:
            create = server.channel().unary_unary("/vinf.v1.VideoGenerationService/CreateGeneration")
            for data in (bytes(17 << 20), b"\xff\xff"):
                assert (await failure(create(data)))[:2] == (UNAUTHENTICATED, "TOKEN_MISSING")

    run(scenario())


def test_known_tokens_open_everything_and_health_needs_none(behind, doors, run):
    async def scenario():
        async with behind(doors) as server:
            for metadata in (bearer("for-alice"), bearer("alice-second"), (("authorization", "bearer  for-bob "),)):
                await server.video().ListGenerations(v1.ListGenerationsRequest(), metadata=metadata)
            reflect = reflection_pb2_grpc.ServerReflectionStub(server.channel())
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            call = reflect.ServerReflectionInfo(iter([request]), metadata=bearer("for-bob"))
            assert (await call.read()).list_services_response.service
            unknown = server.channel().unary_unary("/vinf.v1.VideoGenerationService/No")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unknown(b"", metadata=bearer("for-bob"))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            health = health_pb2_grpc.HealthStub(server.channel())
            check = health_pb2.HealthCheckRequest()
            assert (await health.Check(check)).status == health_pb2.HealthCheckResponse.SERVING
            assert (await health.Watch(check).read()).status == health_pb2.HealthCheckResponse.SERVING

    run(scenario())


def test_case_44_another_clients_generation_is_not_there(behind, doors, run):
    async def scenario():
        async with behind(doors) as server:
            video = server.video()
            alice, bob = bearer("for-alice"), bearer("for-bob")
            mine = (await video.CreateGeneration(create_request(), metadata=alice)).generation.generation_id
            calls, unknown = calls_by_id(video, mine, bob), calls_by_id(video, "0" * 33, bob)
            assert {"GetGeneration", "CancelGeneration", "WatchGeneration", "StreamFrames"} <= set(calls)
            for name, call in calls.items():
                code, reason, text = await failure(call())
                assert (code, reason) == (NOT_FOUND, "GENERATION_NOT_FOUND"), name
                assert text.replace(mine, "0" * 33) == (await failure(unknown[name]()))[2], name
            listed = await video.ListGenerations(v1.ListGenerationsRequest(), metadata=bob)
            assert not listed.generations
            assert server.generations.get(mine).state == generation_pb2.GENERATION_STATE_PENDING
            second = bearer("alice-second")  # two tokens of one name are one client
            listed = await video.ListGenerations(v1.ListGenerationsRequest(), metadata=second)
            assert [g.generation_id for g in listed.generations] == [mine]
            cancelled = await video.CancelGeneration(v1.CancelGenerationRequest(generation_id=mine), metadata=second)
            assert cancelled.generation.state == generation_pb2.GENERATION_STATE_CANCELLED
            watched = video.WatchGeneration(v1.WatchGenerationRequest(generation_id=mine), metadata=alice)
            assert (await watched.read()).generation.generation_id == mine

    run(scenario())


def test_request_ids_are_each_clients_own(behind, doors, run):
    async def scenario():
        async with behind(doors) as server:
            request = create_request(request_id=str(uuid.uuid4()))
            made = [
                await server.video().CreateGeneration(request, metadata=bearer(token))
                for token in ("for-alice", "for-bob", "alice-second")
            ]
            assert [reply.deduplicated for reply in made] == [False, False, True]
            assert len({reply.generation.generation_id for reply in made}) == 2

    run(scenario())


def test_without_tokens_nobody_is_asked(behind, run):
    async def scenario():
        async with behind() as server:
            made = await server.video().CreateGeneration(create_request(), metadata=bearer("x"))
            request = v1.GetGenerationRequest(generation_id=made.generation.generation_id)
            assert (await server.video().GetGeneration(request)).generation == made.generation

    run(scenario())


def test_changes_of_the_file_are_seen_and_mistakes_change_nothing(behind, doors, run, tokens, caplog):
    async def scenario():
        async with behind(doors) as server:

            async def can_list(token):
                call = server.video().ListGenerations(v1.ListGenerationsRequest(), metadata=bearer(token))
                code = await call.code()
                assert code in (grpc.StatusCode.OK, UNAUTHENTICATED)
                return code is grpc.StatusCode.OK

            request = v1.WatchGenerationRequest()
            made = await server.video().CreateGeneration(create_request(), metadata=bearer("for-bob"))
            request.generation_id = made.generation.generation_id
            watch = server.video().WatchGeneration(request, metadata=bearer("for-bob"))
            await watch.read()
            tokens.write_text(line("dave", "for-dave"))
            assert [await can_list(token) for token in ("for-dave", "for-bob")] == [True, False]
            server.generations.cancel(request.generation_id)
            assert (await watch.read()).generation.generation_id == request.generation_id, "open streams go on"
            tokens.write_text("dave secret-by-mistake\n")
            for _ in range(3):
                assert await can_list("for-dave")
            tokens.unlink()
            for _ in range(3):
                assert await can_list("for-dave")

    run(scenario())
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2, "one line a change"
    assert "line 1: the second word is not 64 lower-case hex digits; the tokens in use stay" in errors[0]
    assert "cannot be read: No such file or directory; the tokens in use stay" in errors[1]
    assert "secret-by-mistake" not in caplog.text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("alice\n", "line 1: has 1 words; must be NAME SHA256 [EXPIRY]"),
        ("# x\nal/ice " + "0" * 64, "line 2: the name is not 1 to 64 characters from [A-Za-z0-9._@-]"),
        ("alice " + "0" * 63, "line 1: the second word is not 64 lower-case hex digits"),
        ("alice " + "0" * 64 + " tomorrow", "line 1: the expiry is not an ISO date or time such as 2027-01-31"),
        ("alice " + "0" * 64 + " 2027-02-30", "line 1: the expiry is not an ISO date or time such as 2027-01-31"),
        ("alice " + "0" * 64 + "\nbob " + "0" * 64, "line 2: the same token as an earlier line"),
        ("\udcff", "is not a text in UTF-8"),
    ],
)
def test_mistakes_in_the_file(tmp_path, text, problem):
    path = tmp_path / "tokens"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        TokenFile(path)
    assert str(caught.value).startswith(f"--tokens: {path}")
    assert problem in str(caught.value)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_refused(tokens, mode):
    os.chmod(tokens, mode)
    with pytest.raises(ConfigError, match="can be written by others, who could let anybody in; chmod go-w it"):
        TokenFile(tokens)
    os.chmod(tokens, 0o644)
    TokenFile(tokens)


@pytest.mark.parametrize(
    ("now", "is_good"),
    [("2027-01-31T23:59:59+00:00", True), ("2027-02-01T00:00:00+00:00", False)],
)
def test_a_day_is_good_to_its_end(tmp_path, run, monkeypatch, now, is_good):
    path = tmp_path / "tokens"
    path.write_text(line("alice", "t", "2027-01-31"))
    file = TokenFile(path)
    monkeypatch.setattr("vinf_server.front.rpc.tokens.time.time", datetime.fromisoformat(now).timestamp)
    if is_good:
        run(file.client_of("t"))
    else:
        with pytest.raises(UnauthenticatedError):
            run(file.client_of("t"))


def test_an_open_server_is_said_to_be_one(tokens, caplog):
    everywhere = Address("0.0.0.0", 1)
    Doors.open(ServeConfig(ranks=1, listen=everywhere, insecure=True))
    assert "everybody who can reach 0.0.0.0:1 may use this server" in caplog.text
    caplog.clear()
    Doors.open(ServeConfig(ranks=1, listen=everywhere, insecure=True, tokens=tokens))
    Doors.open(ServeConfig(ranks=1))
    assert not caplog.records
