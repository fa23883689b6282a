"""Cases 26 to 45: what clients do."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.cases.conftest import (
    CANCELLED,
    NEVER_DONE,
    PENDING,
    PROMPT,
    RUNNING,
    SUCCEEDED,
    SUSPENDED,
    TIMEOUT_S,
    Api,
    cancel,
    open_streams,
    pull,
    refusal,
    state_of,
    until,
)
from vinf.v1 import frame_pb2, generation_pb2
from vinf.v1 import video_generation_service_pb2 as v1

pytestmark = pytest.mark.process

LONG = {"frame_count": 128, "inference_step_count": 1, "width": 32, "height": 32}
"""Twice as long as the least that may be kept, of small pictures."""

READER = """
import sys, time
import grpc
from vinf.v1 import video_generation_service_pb2 as v1
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
channel = grpc.insecure_channel(sys.argv[1])
grpc.channel_ready_future(channel).result(60)
print("connected", flush=True)
generation_id = sys.stdin.readline().strip()
stream = VideoGenerationServiceStub(channel).StreamFrames(v1.StreamFramesRequest(generation_id=generation_id))
next(stream)
print("reading", flush=True)
time.sleep(600)
"""


@pytest.fixture
def reader(api: Api) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A client process that holds a stream of a generation that does not end."""
    process = subprocess.Popen(
        [sys.executable, "-c", READER, api.server.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    generation_id = ""
    try:
        # The lease is short, and a process takes its time to start on a busy machine.
        assert process.stdout.readline() == "connected\n"
        generation_id = api.create(spec=NEVER_DONE, lease_duration=Duration(seconds=5)).generation_id
        process.stdin.write(f"{generation_id}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "reading\n"
        yield process, generation_id
    finally:
        process.kill()
        process.communicate(timeout=10)
        if generation_id:
            cancel(api, generation_id)
            api.finish(generation_id)


def test_case_26_a_killed_client_frees_its_stream_and_its_generation_lives_until_the_lease_ends(
    api: Api, reader: tuple[subprocess.Popen[str], str]
) -> None:
    process, generation_id = reader
    assert open_streams(api, "StreamFrames") == 1
    process.kill()
    until(lambda: open_streams(api, "StreamFrames") == 0, seconds=5, what="the stream of a dead client is closed")
    # The events tell it without asking for the generation, which would renew the lease.
    listed = v1.ListGenerationsRequest(page_size=1)

    def newest() -> generation_pb2.Generation:
        return api.video.ListGenerations(listed, timeout=TIMEOUT_S).generations[0]

    assert newest().state in (PENDING, RUNNING)
    until(lambda: newest().state == CANCELLED, seconds=15, what="a generation nobody asks for is cancelled")
    assert newest().error.reason == "LEASE_EXPIRED"
    assert newest().generation_id == generation_id


def test_case_27_a_client_that_stands_still_costs_nobody_else_anything(
    api: Api, reader: tuple[subprocess.Popen[str], str], finished: tuple[str, list[bytes]]
) -> None:
    process, _ = reader
    process.send_signal(signal.SIGSTOP)
    assert api.frames(finished[0]) == finished[1]
    assert api.create(validate_only=True).resolved_spec.frame_count == 8
    process.send_signal(signal.SIGCONT)


def test_case_28_a_slow_reader_suspends_its_generation_and_loses_nothing(api: Api) -> None:
    spec = LONG | {"inference_step_count": 2, "seed": 5}
    undisturbed = api.create(spec=spec, detached=True).generation_id
    assert api.finish(undisturbed).state == SUCCEEDED
    slow = api.create(spec=spec, detached=True, retention_frame_count=64).generation_id
    until(lambda: state_of(api, slow).state == SUSPENDED, seconds=60, what="the generation waits for its reader")
    snapshot = state_of(api, slow)
    assert snapshot.state_reason == "CONSUMER_SLOW"
    assert snapshot.progress.completed_frame_count <= 64
    # The ranks are free meanwhile.
    other = api.create(detached=True, spec={"inference_step_count": 1}).generation_id
    assert api.finish(other).state == SUCCEEDED
    frames: list[bytes] = []
    while True:
        reply = pull(
            api, slow, len(frames), max_frames=16, wait=Duration(seconds=20), release_before_frame_index=len(frames)
        )
        frames += [frame.data for frame in reply.frames]
        if reply.end_of_stream:
            break
    assert frames == api.frames(undisturbed)


def test_case_29_for_a_live_viewer_the_oldest_frames_are_dropped(api: Api) -> None:
    generation_id = api.create(
        spec=LONG,
        detached=True,
        retention_frame_count=64,
        overflow_policy=generation_pb2.OVERFLOW_POLICY_DROP_OLDEST,
    ).generation_id
    # Nobody reads, and yet it runs to its end.
    ended = api.finish(generation_id)
    assert ended.state == SUCCEEDED
    assert (ended.first_available_frame_index, ended.next_frame_index) == (64, 128)
    assert len(api.frames(generation_id, 64)) == 64


def test_case_30_a_stream_opened_again_100_times_gives_the_same_bytes(
    api: Api, finished: tuple[str, list[bytes]]
) -> None:
    numbers = random.Random(30)
    generation_id, frames = finished
    for _ in range(100):
        start = numbers.randrange(len(frames))
        stop = numbers.randint(start + 1, len(frames))
        request = v1.StreamFramesRequest(generation_id=generation_id, start_frame_index=start, end_frame_index=stop)
        messages = list(api.video.StreamFrames(request, timeout=TIMEOUT_S))
        got = [message.frame for message in messages if message.WhichOneof("payload") == "frame"]
        assert [frame.frame_index for frame in got] == list(range(start, stop))
        assert [frame.data for frame in got] == frames[start:stop]


def test_case_31_two_readers_with_different_formats(api: Api, finished: tuple[str, list[bytes]]) -> None:
    generation_id, frames = finished
    bgra = frame_pb2.OutputFormat(pixel_format=frame_pb2.PIXEL_FORMAT_BGRA8)
    reply = pull(api, generation_id, 3, output_format=bgra)
    data = reply.frames[0].data
    assert (data[2::4], data[1::4], data[0::4]) == (frames[3][0::3], frames[3][1::3], frames[3][2::3])
    assert set(data[3::4]) == {255}
    assert pull(api, generation_id, 3).frames[0].data == frames[3]


def test_case_32_200_idle_watchers(api: Api) -> None:
    generation_id = api.create(spec=NEVER_DONE, detached=True).generation_id
    request = v1.WatchGenerationRequest(generation_id=generation_id)
    watchers = [api.video.WatchGeneration(request) for _ in range(200)]
    for watcher in watchers:
        assert next(watcher).generation.generation_id == generation_id
    assert open_streams(api, "WatchGeneration") == 200
    assert api.create(validate_only=True).resolved_spec.frame_count == 8
    cancel(api, generation_id)
    for watcher in watchers:
        assert [message.generation.state for message in watcher][-1] == CANCELLED
    until(lambda: open_streams(api, "WatchGeneration") == 0, seconds=10, what="no stream is left")


def test_case_33_100_cancelled_at_once(api: Api) -> None:
    ids = [api.create(spec=NEVER_DONE, detached=True).generation_id for _ in range(100)]
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda generation_id: cancel(api, generation_id), ids))
    assert {api.finish(generation_id).state for generation_id in ids} == {CANCELLED}
    canary = api.create(spec={"inference_step_count": 1}, detached=True).generation_id
    assert api.finish(canary).state == SUCCEEDED


QUICK = {"inference_step_count": 1}

ABANDONS = """
import asyncio, sys
import grpc
from vinf.v1 import frame_pb2
from vinf.v1 import video_generation_service_pb2 as v1
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub

async def forget(stub, generation_id):
    # Small pictures, and more bytes of them than any window of the transport.
    wide = frame_pb2.OutputFormat(row_alignment_bytes=256)
    async for message in stub.StreamFrames(v1.StreamFramesRequest(generation_id=generation_id, output_format=wide)):
        if message.WhichOneof("payload") == "frame":
            return

async def main():
    channel = grpc.aio.insecure_channel(sys.argv[1])
    print("ready", flush=True)
    await forget(VideoGenerationServiceStub(channel), sys.stdin.readline().strip())
    print("forgotten", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
"""Leaves the loop over a stream and neither cancels it nor closes its channel: grpc.aio keeps such a call alive."""


def test_case_34_a_forgotten_stream_does_not_outlive_the_lease(api: Api) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ABANDONS, api.server.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        generation_id = api.create(
            spec={"frame_count": 208, "inference_step_count": 1, "width": 32, "height": 128},
            lease_duration=Duration(seconds=5),
            retention_frame_count=192,
        ).generation_id
        process.stdin.write(f"{generation_id}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "forgotten\n"
        # Frames are released by pulls alone: it is suspended, and nobody would ever ask for it again.
        listed = v1.ListGenerationsRequest(page_size=1)

        def newest() -> generation_pb2.Generation:
            return api.video.ListGenerations(listed, timeout=TIMEOUT_S).generations[0]

        until(lambda: newest().state == CANCELLED, seconds=90, what="the lease of a forgotten stream ends")
        assert (newest().generation_id, newest().error.reason) == (generation_id, "LEASE_EXPIRED")
    finally:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()
    until(lambda: open_streams(api, "StreamFrames") == 0, seconds=5, what="its stream is closed")


def test_case_35_the_same_request_50_times_in_parallel_is_one_generation(api: Api) -> None:
    request_id = str(uuid.uuid4())
    with ThreadPoolExecutor(50) as pool:
        made = list(
            pool.map(lambda _: api.create(request_id=request_id, detached=True, spec=QUICK).generation_id, range(50))
        )
    assert len(set(made)) == 1
    api.finish(made[0])


def test_case_36_a_request_id_with_another_specification(api: Api) -> None:
    request_id = str(uuid.uuid4())
    made = api.create(request_id=request_id, detached=True, spec=QUICK)
    seen = api.refused(request_id=request_id, spec={"seed": 99})
    assert (seen.code, seen.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert seen.metadata["generationId"] == made.generation_id
    api.finish(made.generation_id)


def test_case_37_a_lost_reply_of_create_is_asked_for_again(api: Api) -> None:
    """Between client and server stands a door that lets the request through and swallows the reply."""
    host, _, port = api.server.address.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(TIMEOUT_S)

    def swallow() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as server:
            onward = threading.Thread(target=_copy, args=(client, server), daemon=True)
            onward.start()
            _copy(server, client, until_generation_was_made=api)
            for connection in (client, server):
                connection.shutdown(socket.SHUT_RDWR)
            onward.join(TIMEOUT_S)

    api_before = api.newest_id()
    door = threading.Thread(target=swallow, daemon=True)
    door.start()
    request = v1.CreateGenerationRequest(
        request_id=str(uuid.uuid4()),
        spec=generation_pb2.GenerationSpec(prompt=PROMPT, frame_count=8, inference_step_count=1),
        detached=True,
    )
    with grpc.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
        call = channel.unary_unary(
            "/vinf.v1.VideoGenerationService/CreateGeneration",
            request_serializer=v1.CreateGenerationRequest.SerializeToString,
            response_deserializer=v1.CreateGenerationResponse.FromString,
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    door.join(TIMEOUT_S)
    listener.close()
    lost = api.newest_id()
    assert lost != api_before, "the request did not arrive"
    again = api.video.CreateGeneration(request, timeout=TIMEOUT_S)
    assert (again.deduplicated, again.generation.generation_id) == (True, lost)
    api.finish(lost)


def _copy(source: socket.socket, target: socket.socket, *, until_generation_was_made: Api | None = None) -> None:
    """Copy bytes; with an API, only until a generation has been made, and nothing after."""
    before = until_generation_was_made.newest_id() if until_generation_was_made is not None else ""
    source.settimeout(TIMEOUT_S)
    try:
        while data := source.recv(65536):
            if until_generation_was_made is not None and until_generation_was_made.newest_id() != before:
                return
            target.sendall(data)
    except OSError:
        return


def test_case_38_a_frame_that_is_no_longer_kept(api: Api) -> None:
    generation_id = api.create(
        spec=LONG,
        detached=True,
        retention_frame_count=64,
        overflow_policy=generation_pb2.OVERFLOW_POLICY_DROP_OLDEST,
    ).generation_id
    assert api.finish(generation_id).state == SUCCEEDED
    with pytest.raises(grpc.RpcError) as pulled:
        pull(api, generation_id, 3)
    with pytest.raises(grpc.RpcError) as streamed:
        api.frames(generation_id, 3)
    for caught in (pulled, streamed):
        seen = refusal(caught.value)
        assert (seen.code, seen.reason) == (grpc.StatusCode.OUT_OF_RANGE, "FRAME_EVICTED")
        assert seen.metadata["firstAvailableFrameIndex"] == "64"


def test_case_39_an_index_at_the_end_of_a_finished_one(api: Api, finished: tuple[str, list[bytes]]) -> None:
    request = v1.StreamFramesRequest(generation_id=finished[0], start_frame_index=24)
    messages = [message.WhichOneof("payload") for message in api.video.StreamFrames(request, timeout=TIMEOUT_S)]
    assert messages == ["header", "end"]
    reply = pull(api, finished[0], 24)
    assert (list(reply.frames), reply.end_of_stream, reply.state) == ([], True, SUCCEEDED)


def test_case_40_a_pull_never_waits_beyond_its_deadline(api: Api) -> None:
    generation_id = api.create(spec=NEVER_DONE, detached=True).generation_id
    request = v1.PullFramesRequest(generation_id=generation_id, wait=Duration(seconds=30))
    for _ in range(10):
        # The reply leaves a tenth of a second before the deadline, which is not always enough on a busy machine.
        with suppress(grpc.RpcError):
            reply = api.video.PullFrames(request, timeout=1.5)
            break
    else:
        raise AssertionError("no reply within the deadline, in ten tries")
    assert (list(reply.frames), reply.end_of_stream, reply.next_frame_index) == ([], False, 0)
    cancel(api, generation_id)
    assert api.finish(generation_id).state == CANCELLED


def test_case_42_cancel_in_every_state(api: Api, finished: tuple[str, list[bytes]]) -> None:
    running = api.create(spec=NEVER_DONE, detached=True).generation_id
    waiting = api.create(spec=NEVER_DONE, detached=True).generation_id
    until(lambda: state_of(api, running).progress.completed_step_count > 1, seconds=60, what="it runs")
    assert cancel(api, waiting).state == CANCELLED
    cancel(api, running)
    assert api.finish(running).state == CANCELLED
    assert cancel(api, running).state == CANCELLED
    assert cancel(api, finished[0]).state == SUCCEEDED
    with pytest.raises(grpc.RpcError) as caught:
        cancel(api, "0" * 12 + "-" + "0" * 20)
    assert refusal(caught.value).reason == "GENERATION_NOT_FOUND"
    suspended = api.create(spec=LONG, detached=True, retention_frame_count=64).generation_id
    until(lambda: state_of(api, suspended).state == SUSPENDED, seconds=60, what="it waits for its reader")
    assert cancel(api, suspended).state == CANCELLED


def test_case_43_the_clocks_of_clients_do_not_matter() -> None:
    """No request carries the client's time but `deadline`, which is compared with the server's clock alone."""
    requests = [message for name, message in v1.DESCRIPTOR.message_types_by_name.items() if name.endswith("Request")]
    stamps = [
        f"{message.name}.{field.name}"
        for message in requests
        for field in message.fields
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp"
    ]
    assert stamps == ["CreateGenerationRequest.deadline"]
