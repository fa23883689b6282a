"""Fronts that are killed or stopped, and others that go on in the same folder."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import uuid
from contextlib import suppress

import grpc
import pytest

import vinf_client
from tests.server.conftest import QUICK_AGENT, wait_until
from tests.server.fakes import frame_bytes
from tests.server.test_serve import RPC_TIMEOUT_S, Client, assert_is_video
from tests.support.pictures import encoded, noise
from vinf.v1 import frame_pb2, generation_pb2, video_generation_service_pb2
from vinf_server.front.rpc.images import decode

NOBODY = "0123456789ab-0123456789abcdef0123"
"""Named as generations are."""

# Above the limits of calls and starts: what hangs there is told by them.
pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

v1 = video_generation_service_pb2
pb = generation_pb2
FRAME_BYTES = 12288


def reasons(client, generation_id):
    """Every change of state of a generation that ends, in order."""
    request = v1.WatchGenerationRequest(generation_id=generation_id)
    responses = client.video.WatchGeneration(request, timeout=RPC_TIMEOUT_S)
    events = [event for response in responses for event in response.events]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return [
        (pb.GenerationState.Name(event.state).removeprefix("GENERATION_STATE_"), event.state_reason) for event in events
    ]


def kill(front):
    """End a front as the kernel would, ranks and all."""
    front.note_processes()
    front.process.kill()
    front.wait()
    front.ready_file.unlink()


def read_until(stream, frames):
    """The header and so many frames of a stream that goes on."""
    return [next(stream) for _ in range(1 + frames)][1:]


def test_case_58_killed_front_loses_nothing(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    boot_id = client.info().boot_id
    done = client.create(seed=1)
    client.watch(done)
    request_id = str(uuid.uuid4())
    request = v1.CreateGenerationRequest(
        request_id=request_id, spec=pb.GenerationSpec(prompt="a hang red circle", seed=2)
    )
    running = client.video.CreateGeneration(request).generation.generation_id
    queued = [client.create(seed=3), client.create(seed=4)]
    cancelled = client.create(seed=5)
    client.cancel(cancelled)
    seen = read_until(client.stream(running), 1)
    kill(front)

    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    assert client.info().boot_id not in ("", boot_id)
    assert client.video.CreateGeneration(request).generation.generation_id == running
    rest = [response for response in client.stream(running, 1) if response.HasField("frame")]
    frames = [response.frame.data for response in [*seen, *rest]]
    assert frames == [frame_bytes(2, index, FRAME_BYTES) for index in range(16)]
    assert reasons(client, running) == [
        ("PENDING", "QUEUED"),
        ("RUNNING", ""),
        ("PENDING", "SERVER_RESTARTED"),
        ("RUNNING", ""),
        ("SUCCEEDED", ""),
    ]
    for seed, generation_id in enumerate(queued, start=3):
        assert reasons(client, generation_id) == [("PENDING", "QUEUED"), ("RUNNING", ""), ("SUCCEEDED", "")]
        assert_is_video(list(client.stream(generation_id)), seed=seed, start=0, stop=16)
    starts = [client.get(generation_id).start_time.ToNanoseconds() for generation_id in (running, *queued)]
    assert starts == sorted(starts)
    assert_is_video(list(client.stream(done)), seed=1, start=0, stop=16)
    assert client.get(done).HasField("expire_time")
    assert client.get(cancelled).error.reason == "CANCEL_REQUESTED"
    client.channel.close()


def test_case_68_killed_while_streaming_and_started_on_another_folder(front_process):
    """Ids live as long as their folder: on a new one the client learns that this is another server."""
    front = front_process(*QUICK_AGENT)
    ready = front.wait_ready()
    client = Client(ready)
    boot_id = client.info().boot_id
    running = client.create("a hang red circle", seed=2)
    stream = client.stream(running)
    read_until(stream, 1)
    kill(front)
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    client = Client(front_process(*QUICK_AGENT, "--listen", ready["listen"], name="another").wait_ready())
    with pytest.raises(grpc.RpcError) as caught:
        client.get(running)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert client.info().boot_id not in ("", boot_id)
    with vinf_client.Client(ready["listen"]) as sdk, pytest.raises(vinf_client.GenerationNotFoundError):
        sdk.attach(running)
    client.channel.close()


def test_stopped_front_ends_nothing(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    running = client.create("a hang red circle", seed=2)
    stream = client.stream(running)
    read_until(stream, 1)
    os.kill(front.process.pid, signal.SIGTERM)
    (end,) = list(stream)
    assert "goes on after its restart" in end.end.error.message
    assert front.wait() == 0

    client = Client(front_process(*QUICK_AGENT).wait_ready())
    waiting, *rest = reasons(client, running)[-3:]
    # A rank that hangs saves nothing; stopped, it may be noticed as lost before the server itself has ended.
    assert waiting in (("PENDING", "SERVER_RESTARTED"), ("PENDING", "WORKER_LOST"))
    assert rest == [("RUNNING", ""), ("SUCCEEDED", "")]
    assert_is_video(list(client.stream(running)), seed=2, start=0, stop=16)
    client.channel.close()


def test_half_written_and_damaged_frames_are_made_again(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    running = client.create("a hang red circle", seed=2)
    read_until(client.stream(running), 1)
    kill(front)
    folder = front.folder / "data" / "spool" / running
    with open(folder / "frames.rgb24", "r+b") as file:
        file.seek(100)
        file.write(b"rubbish")
    with open(folder / "frames.index", "ab") as file:
        file.write(b"a record that was cut")
    (front.folder / "data" / "spool" / NOBODY).mkdir()

    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    client.watch(running)
    assert_is_video(list(client.stream(running)), seed=2, start=0, stop=16)
    assert "1 damaged frames are made again" in front.stderr
    assert not (front.folder / "data" / "spool" / NOBODY).exists()

    # Once it has ended, nobody can make a frame again.
    with open(folder / "frames.rgb24", "r+b") as file:
        file.seek(3 * FRAME_BYTES)
        file.write(b"rubbish")
    # In a format that nobody has read yet: what was read is kept for others, and is right.
    bgra = frame_pb2.OutputFormat(pixel_format=frame_pb2.PIXEL_FORMAT_BGRA8)
    request = video_generation_service_pb2.StreamFramesRequest(
        generation_id=running, start_frame_index=2, output_format=bgra
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(client.video.StreamFrames(request, timeout=RPC_TIMEOUT_S))
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    assert "frame 3 cannot be read" in caught.value.details()
    client.channel.close()


def test_cancelling_becomes_cancelled(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    running = client.create("a hang red circle")
    read_until(client.stream(running), 1)
    assert client.cancel(running).state == pb.GENERATION_STATE_CANCELLING
    kill(front)
    client = Client(front_process(*QUICK_AGENT).wait_ready())
    assert reasons(client, running)[-1] == ("CANCELLED", "CANCEL_REQUESTED")
    assert client.get(running).progress.completed_frame_count == 1
    client.channel.close()


def test_what_the_new_ranks_cannot_make_fails_by_name(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    running = client.create("a hang red circle", frame_count=65)
    small = client.create(seed=3)
    read_until(client.stream(running), 1)
    kill(front)
    client = Client(front_process(*QUICK_AGENT, "--memory-budget", "64MiB").wait_ready())
    failed = client.watch(running)[-1]
    assert (failed.state, failed.error.reason) == (pb.GENERATION_STATE_FAILED, "SPEC_TOO_LARGE")
    assert "the server was restarted, and cannot make it any more" in failed.error.message
    assert client.watch(small)[-1].state == pb.GENERATION_STATE_SUCCEEDED
    client.channel.close()


def test_deleted_and_expired_ones_are_gone_for_good(front_process):
    front = front_process(*QUICK_AGENT, "--keep-count", "1")
    client = Client(front.wait_ready())
    deleted = client.create(seed=1)
    client.watch(deleted)
    client.video.DeleteGeneration(v1.DeleteGenerationRequest(generation_id=deleted), timeout=RPC_TIMEOUT_S)
    old, new = client.create(seed=2), client.create(seed=3)
    client.watch(new)
    last = client.create(seed=4)
    client.watch(last)
    for generation_id in (deleted, old):
        wait_until(lambda generation_id=generation_id: is_gone(client, generation_id), what="housekeeping")
        folder = front.folder / "data" / "spool" / generation_id
        wait_until(lambda folder=folder: not folder.exists(), what="removal of the frames")
    kill(front)
    client = Client(front_process(*QUICK_AGENT).wait_ready())
    page = client.video.ListGenerations(v1.ListGenerationsRequest(), timeout=RPC_TIMEOUT_S)
    assert last in {generation.generation_id for generation in page.generations} <= {new, last}
    client.channel.close()


def is_gone(client, generation_id):
    """Whether the server knows nothing of it any more."""
    try:
        client.get(generation_id)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


def test_disk_budget_refuses_what_does_not_fit(front_process):
    front = front_process(*QUICK_AGENT, "--disk-budget", "1MiB")
    client = Client(front.wait_ready())
    assert client.info().limits.disk_budget_bytes == 1 << 20
    client.watch(client.create(frame_count=16))
    with pytest.raises(grpc.RpcError) as caught:
        client.create(frame_count=100)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "bytes of the server's disk" in caught.value.details()
    assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert client.metric('vinf_admission_rejections_total{reason="disk_full"}') == 1
    client.channel.close()


def test_database_of_a_newer_version_is_one_line(front_process):
    front = front_process(*QUICK_AGENT)
    front.wait_ready()
    front.stop()
    with sqlite3.connect(front.folder / "data" / "vinf.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    second = front_process(*QUICK_AGENT)
    assert second.wait() == 1
    (line,) = second.stderr.splitlines()
    assert line.startswith("vinf serve: error: --data-dir: ")
    assert "a newer version has written it" in line


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few MiB; needs root."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path):
    """Take all the room that is left."""
    with open(path, "wb", buffering=0) as file, suppress(OSError):  # until the disk refuses
        while True:
            file.write(bytes(4096))


def test_case_64_full_disk_suspends_what_runs_and_corrupts_nothing(front_process, small_disk):
    front = front_process(*QUICK_AGENT, "--data-dir", str(small_disk / "data"))
    client = Client(front.wait_ready())
    # The rank waits after the first frame; told to stop, it has made no other one.
    blocker = client.create("a slow red circle", seed=1)
    read_until(client.stream(blocker), 1)
    running = client.create(seed=2, frame_count=64)
    fill(small_disk / "filler")
    client.cancel(blocker)
    wait_until(lambda: client.get(running).state_reason == "DISK_FULL", what="suspension")
    with pytest.raises(grpc.RpcError) as caught:
        client.create(seed=3)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    (small_disk / "filler").unlink()
    assert reasons(client, running)[-4:] == [
        ("SUSPENDED", "DISK_FULL"),
        ("PENDING", "QUEUED"),
        ("RUNNING", ""),
        ("SUCCEEDED", ""),
    ]
    assert_is_video(list(client.stream(running)), seed=2, start=0, stop=64)
    client.channel.close()
    front.stop()


def test_case_64_no_room_for_logs(front_process, small_disk):
    """Neither the front nor torchrun nor a rank needs a line of its log to be written."""
    front = front_process("--data-dir", str(small_disk / "data"))
    client = Client(front.wait_ready())
    assert client.watch(client.create(seed=1))[-1].state == pb.GENERATION_STATE_SUCCEEDED
    fill(small_disk / "filler")
    lost = client.info().ranks[1].pid
    os.kill(lost, signal.SIGKILL)
    wait_until(lambda: client.info().ready and client.info().ranks[1].pid != lost, timeout_s=120, what="another group")
    (small_disk / "filler").unlink()
    made = wait_until(lambda: created(client, seed=2), what="room for a generation")
    assert_is_video(list(client.stream(made)), seed=2, start=0, stop=16)
    client.channel.close()
    front.stop()


def created(client, **fields):
    """The id of a new generation; None while the disk is thought to be full."""
    try:
        return client.create(**fields)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return None


def test_images_go_with_their_generation_through_a_restart(front_process):
    """The client is told of digests only, ranks of pixels only, the log of nothing."""
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    first, last = noise(seed=1), noise(128, 64, seed=2)
    files = encoded(first), encoded(last)
    conditions = [pb.ImageCondition(frame_index=frame, image=file) for frame, file in zip((0, 15), files, strict=True)]
    request = v1.CreateGenerationRequest(
        request_id=str(uuid.uuid4()),
        spec=pb.GenerationSpec(prompt="a hang red circle", seed=2, image_conditions=conditions),
    )
    created = client.video.CreateGeneration(request, timeout=RPC_TIMEOUT_S).generation
    running = created.generation_id
    waiting = client.create(seed=3, image_conditions=conditions[:1])
    digests = [hashlib.sha256(file).hexdigest() for file in files]
    assert [kept.image_sha256 for kept in created.resolved_spec.image_conditions] == digests
    assert client.get(running).ByteSize() < 1000
    read_until(client.stream(running), 1)
    (front.folder / "data" / "spool" / waiting / "images.rgb24").write_bytes(b"rubbish")
    kill(front)

    client = Client(front_process(*QUICK_AGENT).wait_ready())
    assert client.video.CreateGeneration(request, timeout=RPC_TIMEOUT_S).deduplicated
    frames = [response.frame.data for response in client.stream(running) if response.HasField("frame")]
    middle = [frame_bytes(2, index, FRAME_BYTES) for index in range(1, 15)]
    assert frames == [first.tobytes(), *middle, decode(files[1], 64, 64)]
    assert reasons(client, running)[-1] == ("SUCCEEDED", "")
    failed = client.watch(waiting)[-1]
    assert (failed.state, failed.error.reason) == (pb.GENERATION_STATE_FAILED, "IMAGE_DAMAGED")
    assert not list((front.folder / "data" / "spool").glob("*/images*"))
    another = [pb.ImageCondition(frame_index=0, image=files[1])]
    request.spec.ClearField("image_conditions")
    request.spec.image_conditions.extend(another)
    with pytest.raises(grpc.RpcError) as caught:
        client.video.CreateGeneration(request, timeout=RPC_TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert "\\x89PNG" not in front.stderr
    assert digests[0] not in front.stderr
    client.channel.close()
