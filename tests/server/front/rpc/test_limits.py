"""Strangers on the wire: what is not gRPC, too much of it, and pings without end."""

from __future__ import annotations

import asyncio
import struct
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import grpc
import pytest

from vinf.v1 import generation_pb2, server_info_service_pb2, server_info_service_pb2_grpc
from vinf.v1 import video_generation_service_pb2 as v1
from vinf_server.front.rpc.server import MAX_METADATA_BYTES, MAX_STREAMS_PER_CONNECTION

pytestmark = pytest.mark.fast

CREATE = v1.CreateGenerationRequest(spec=generation_pb2.GenerationSpec(prompt="a red circle"))
INFO = server_info_service_pb2.GetServerInfoRequest()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(190)


def frame(kind, payload=b"", flags=0):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


async def next_frame(reader, kind):
    """The payload of the next HTTP/2 frame of a kind."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == kind:
            return payload


@asynccontextmanager
async def connected(server):
    """A bare connection."""
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):  # reset by the server
            await writer.wait_closed()


def info_stub(server):
    return server_info_service_pb2_grpc.ServerInfoServiceStub(server.channel())


def test_case_25_unknown_methods_are_unimplemented(behind, run):
    async def scenario():
        async with behind() as server:
            for path in (
                "/vinf.v1.VideoGenerationService/Nothing",
                "/nobody/Knows",
                "/vinf.engine.v1.EngineLinkService/Beat",
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await server.channel().unary_unary(path)(b"")
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(scenario())


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (TLS_HELLO, True),
        (b"\x00" * 200, True),
        (PREFACE[:10], False),  # the rest could still come
    ],
    ids=["HTTP/1.1", "TLS", "zeros", "half a greeting"],
)
def test_case_25_other_protocols_leave_the_server_alive(behind, run, words, ends, caplog):
    async def scenario():
        async with behind() as server:
            for is_patient in (False, True):
                async with connected(server) as (reader, writer):
                    writer.write(words)
                    await writer.drain()
                    if is_patient and ends:
                        with suppress(ConnectionError):
                            await reader.read()  # until the server closes it
            async with AsyncExitStack() as half_open:
                for _ in range(20):
                    await half_open.enter_async_context(connected(server))
                await info_stub(server).GetServerInfo(INFO)

    run(scenario())
    assert not caplog.records


def test_large_metadata_is_refused(behind, run):
    async def scenario():
        async with behind() as server:
            await info_stub(server).GetServerInfo(INFO, metadata=(("x-note", "a" * (MAX_METADATA_BYTES // 2)),))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await info_stub(server).GetServerInfo(INFO, metadata=(("x-note", "a" * MAX_METADATA_BYTES),))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await info_stub(server).GetServerInfo(INFO)

    run(scenario())


def test_a_connection_may_have_so_many_streams(behind, run):
    async def scenario():
        async with behind() as server:
            async with connected(server) as (reader, writer):
                writer.write(PREFACE + frame(SETTINGS))
                settings = dict(struct.iter_unpack(">HI", await next_frame(reader, SETTINGS)))
            assert settings[3] == MAX_STREAMS_PER_CONNECTION
            assert settings[6] == MAX_METADATA_BYTES

    run(scenario())


def test_case_72_pings_without_end_cost_only_their_sender(behind, run):
    async def scenario():
        async with behind() as server:
            made = (await server.video().CreateGeneration(CREATE)).generation
            watch = server.video().WatchGeneration(v1.WatchGenerationRequest(generation_id=made.generation_id))
            await watch.read()
            async with connected(server) as (reader, writer):
                # In one piece: the server closes after its answer, and then nothing more may be on its way.
                writer.write(PREFACE + frame(SETTINGS) + b"".join(frame(PING, bytes(8)) for _ in range(10)))
                goaway = await next_frame(reader, GOAWAY)
            assert goaway[8:] == b"too_many_pings"
            server.generations.cancel(made.generation_id)
            assert (await watch.read()).generation.HasField("end_time")
            await info_stub(server).GetServerInfo(INFO)

    run(scenario())
