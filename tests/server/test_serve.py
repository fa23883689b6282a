"""Whole fronts with scripted ranks below the real elastic agent: life, loss and death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import grpc
import psutil
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.server.conftest import QUICK_AGENT, ROOT, FrontProcess, assert_gone, wait_until
from tests.server.fakes import frame_bytes
from tests.support.remains import remains_of
from vinf.v1 import (
    generation_pb2,
    server_info_service_pb2,
    server_info_service_pb2_grpc,
    video_generation_service_pb2,
    video_generation_service_pb2_grpc,
)

# Above the calls' own limit: what hangs there is told by the call.
pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

v1 = video_generation_service_pb2
SERVICE = "vinf.v1.VideoGenerationService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
RPC_TIMEOUT_S = 120
"""Only bounds a hang; a call that waits for another group takes long on a busy machine."""


class Client:
    """The stubs of one server."""

    def __init__(self, ready: dict) -> None:
        self.ready = ready
        self.channel = grpc.insecure_channel(ready["listen"])
        self.video = video_generation_service_pb2_grpc.VideoGenerationServiceStub(self.channel)
        self.info_stub = server_info_service_pb2_grpc.ServerInfoServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def create(self, prompt="a red circle", **fields) -> str:
        spec = generation_pb2.GenerationSpec(prompt=prompt, **fields)
        reply = self.video.CreateGeneration(v1.CreateGenerationRequest(spec=spec), timeout=RPC_TIMEOUT_S)
        return reply.generation.generation_id

    def get(self, generation_id):
        request = v1.GetGenerationRequest(generation_id=generation_id)
        return self.video.GetGeneration(request, timeout=RPC_TIMEOUT_S).generation

    def watch(self, generation_id) -> list:
        return list(self.watching(generation_id))

    def watching(self, generation_id):
        """Snapshots as they come; the first one tells that the server sends all that follow."""
        request = v1.WatchGenerationRequest(generation_id=generation_id)
        return (r.generation for r in self.video.WatchGeneration(request, timeout=RPC_TIMEOUT_S))

    def watch_health(self):
        call = self.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=RPC_TIMEOUT_S)
        return (response.status for response in call)

    def stream(self, generation_id, start=0):
        """Everything but progress, which comes as often as the machine has time for."""
        request = v1.StreamFramesRequest(generation_id=generation_id, start_frame_index=start)
        call = self.video.StreamFrames(request, timeout=RPC_TIMEOUT_S)
        return (message for message in call if message.WhichOneof("payload") != "progress")

    def cancel(self, generation_id):
        return self.video.CancelGeneration(v1.CancelGenerationRequest(generation_id=generation_id)).generation

    def info(self):
        return self.info_stub.GetServerInfo(server_info_service_pb2.GetServerInfoRequest()).server_info

    def status(self):
        return self.health.Check(health_pb2.HealthCheckRequest(service=SERVICE)).status

    def metric(self, line: str) -> float:
        page = urllib.request.urlopen(f"http://{self.ready['metrics']}/metrics", timeout=10).read().decode()
        (found,) = [text for text in page.splitlines() if text.startswith(line + " ")]
        return float(found.rpartition(" ")[2])


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """One server for every test that leaves it as it found it."""
    # No test here is about ranks that hang, and one has them hang until it kills them.
    process = FrontProcess(tmp_path_factory.mktemp("front"), "--hang-timeout", "60")
    try:
        client = Client(process.wait_ready())
        yield SimpleNamespace(process=process, client=client)
        client.channel.close()
    finally:
        assert process.stop() == 0
        assert "Traceback" not in process.stderr


def assert_nothing_left(front):
    assert not remains_of(front.folder / "data")


def assert_is_video(responses, *, seed, start, stop):
    header, *frames, end = responses
    assert header.WhichOneof("payload") == "header"
    assert [r.frame.frame_index for r in frames] == list(range(start, stop))
    for response in frames:
        assert response.frame.data == frame_bytes(seed, response.frame.frame_index, 12288)
    assert end.end.next_frame_index == stop


def test_ready_line_and_file_name_the_real_addresses(front):
    ready = front.client.ready
    assert ready["pid"] == front.process.process.pid
    assert (
        f"vinf is ready: scripted on 2 ranks (cpu), grpc {ready['listen']}, metrics http://{ready['metrics']}/metrics"
        in front.process.stderr
    )


def test_created_watched_streamed(front):
    client = front.client
    generation_id = client.create(seed=11, frame_count=40)
    streams = {start: client.stream(generation_id, start) for start in (0, 25)}
    states = [g.state for g in client.watch(generation_id)]
    assert states[-1] == generation_pb2.GENERATION_STATE_SUCCEEDED
    for start, stream in streams.items():
        assert_is_video(list(stream), seed=11, start=start, stop=40)
    assert_is_video(list(client.stream(generation_id, 39)), seed=11, start=39, stop=40)
    generation = client.get(generation_id)
    assert [(c.start_frame_index, c.frame_count) for c in generation.clips] == [(0, 20), (20, 20)]
    assert list(generation.peak_rank_memory_bytes) == [1000, 1000]
    assert generation.progress.completed_step_count == 4


def test_case_66_memory_budget_decides_what_is_admitted(front_process):
    client = Client(front_process(*QUICK_AGENT, "--memory-budget", "64MiB").wait_ready())
    info = client.info()
    assert info.limits.rank_memory_budget_bytes == 64 << 20
    assert info.models[0].max_frame_count_at_default_size == 42
    assert client.watch(client.create(frame_count=42))[-1].state == generation_pb2.GENERATION_STATE_SUCCEEDED
    command = (sys.executable, "-m", "vinf_client.cli", "generate", "a red circle", "-o", "x.npy", "--frames", "43")
    done = subprocess.run(
        [*command, "--server", client.ready["listen"]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "vinf generate: --frames: must be in [1, 42] frames at 64 x 64 pixels, got 43; "
        "a rank would need 64.50 MiB of memory and has 64.00 MiB"
    ]
    client.channel.close()


def test_cancelled_between_frames_keeps_what_there_is(front):
    client = front.client
    generation_id = client.create("a slow red circle", seed=12)
    stream = client.stream(generation_id)
    assert [next(stream).WhichOneof("payload") for _ in range(2)] == ["header", "frame"]
    waiting = client.create(seed=13)
    assert client.get(waiting).progress.queue_position == 1
    assert client.cancel(generation_id).state == generation_pb2.GENERATION_STATE_CANCELLING
    (last,) = list(stream)
    assert last.end.state == generation_pb2.GENERATION_STATE_CANCELLED
    assert last.end.error.reason == "CANCEL_REQUESTED"
    assert last.end.next_frame_index == 1
    assert client.watch(waiting)[-1].state == generation_pb2.GENERATION_STATE_SUCCEEDED


def test_failure_that_the_ranks_report_twice(front):
    client = front.client
    generation_id = client.create("fail a red circle")
    generation = client.watch(generation_id)[-1]
    assert f"generation {generation_id} is tried once more after step 0: frame 1 is black" in front.process.stderr
    assert generation.state == generation_pb2.GENERATION_STATE_FAILED
    assert (generation.error.reason, generation.error.message) == ("OUTPUT_INVALID", "frame 1 is black")
    assert client.metric('vinf_generation_failures_total{model_name="scripted",reason="OUTPUT_INVALID"}') >= 1


def test_info_health_and_metrics_agree(front):
    client = front.client
    info = client.info()
    assert info.ready
    assert [(r.rank, r.device) for r in info.ranks] == [(0, "cpu"), (1, "cpu")]
    assert client.status() == SERVING
    assert client.metric("vinf_ready") == 1
    assert client.metric('vinf_worker_up{gpu="cpu",rank="1"}') == 1


def test_case_71_second_front_on_the_same_port(front, tmp_path):
    address = front.client.ready["listen"]
    second = FrontProcess(tmp_path, "--listen", address)
    assert second.wait() == 1
    assert second.stderr == f"vinf serve: error: cannot listen on {address}: Address already in use\n"


def test_second_front_on_the_same_metrics_port(front, tmp_path):
    address = front.client.ready["metrics"]
    second = FrontProcess(tmp_path, "--metrics", address)
    assert second.wait() == 1
    assert second.stderr == f"vinf serve: error: cannot serve metrics on {address}: Address already in use\n"


def test_second_front_on_the_same_data_dir(front, tmp_path):
    folder = front.process.folder / "data"
    second = FrontProcess(tmp_path, "--data-dir", str(folder))
    assert second.wait() == 1
    pid = front.client.ready["pid"]
    assert second.stderr == f"vinf serve: error: --data-dir: {folder} is in use by another server (pid {pid})\n"


def test_killed_rank_interrupts_what_runs_and_the_group_comes_back(front):
    """Watched from before the kill: on a busy machine the group is back before anybody asks."""
    client = front.client
    generation_id = client.create("hang a red circle", seed=21)
    waiting = client.create(seed=22)
    stream = client.stream(generation_id)
    assert [next(stream).WhichOneof("payload") for _ in range(2)] == ["header", "frame"]
    old = {rank.rank: rank.pid for rank in client.info().ranks}
    resumes = client.metric('vinf_generation_resumes_total{model_name="scripted"}')
    health, watch, watch_waiting = client.watch_health(), client.watching(generation_id), client.watching(waiting)
    assert next(health) == SERVING
    assert next(watch).state == generation_pb2.GENERATION_STATE_RUNNING
    assert next(watch_waiting).progress.queue_position == 1
    front.process.note_processes()
    os.kill(old[1], signal.SIGKILL)
    assert next(health) == NOT_SERVING
    rest = [response for response in stream if response.WhichOneof("payload") in ("frame", "end")]
    assert [r.frame.frame_index for r in rest[:-1]] == list(range(1, 16))
    assert rest[-1].end.state == generation_pb2.GENERATION_STATE_SUCCEEDED
    assert next(health) == SERVING
    snapshots = list(watch)
    interrupted = next(g.progress for g in snapshots if g.state == generation_pb2.GENERATION_STATE_PENDING)
    assert (interrupted.queue_position, interrupted.completed_frame_count) == (0, 1)
    assert_is_video(list(client.stream(generation_id)), seed=21, start=0, stop=16)
    followed = list(watch_waiting)[-1]
    assert followed.state == generation_pb2.GENERATION_STATE_SUCCEEDED
    assert followed.start_time.ToNanoseconds() >= snapshots[-1].end_time.ToNanoseconds(), "it kept its place behind"
    assert_is_video(list(client.stream(waiting)), seed=22, start=0, stop=16)
    assert not {rank.pid for rank in client.info().ranks} & set(old.values())
    assert client.metric('vinf_worker_restarts_total{cause="signal"}') == 1
    assert client.metric('vinf_worker_recovery_duration_seconds_count{cause="signal"}') == 1
    assert 0 < client.metric('vinf_worker_recovery_duration_seconds_sum{cause="signal"}') < 60
    assert client.metric('vinf_generation_resumes_total{model_name="scripted"}') == resumes + 1
    assert f"rank 1 (pid {old[1]}, cpu) was lost" in front.process.stderr
    assert "rank 1 ended with signal 9" in front.process.stderr
    assert_gone(psutil.Process(pid) for pid in old.values() if psutil.pid_exists(pid))


def test_generation_that_loses_every_group_fails_and_the_next_one_does_not(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    generation_id, waiting = client.create("crash a red circle"), client.create(seed=22)
    (*_, end) = client.stream(generation_id)
    assert end.end.state == generation_pb2.GENERATION_STATE_FAILED
    assert (end.end.error.reason, end.end.error.code) == ("WORKER_LOST", code_pb2.UNAVAILABLE)
    assert "rank 0" in end.end.error.message
    assert "3 times without any progress" in end.end.error.message
    assert client.watch(waiting)[-1].state == generation_pb2.GENERATION_STATE_SUCCEEDED
    assert_is_video(list(client.stream(waiting)), seed=22, start=0, stop=16)
    assert client.metric('vinf_generation_resumes_total{model_name="scripted"}') == 2
    assert client.metric('vinf_worker_restarts_total{cause="exit"}') == 3
    assert client.metric('vinf_worker_recovery_duration_seconds_count{cause="exit"}') == 3
    client.channel.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_case_69_signal_ends_streams_within_the_grace_and_leaves_nothing(front_process, number):
    """Started as a shell starts a job in the background: with SIGINT ignored. The ranks hang, and save nothing."""
    front = front_process(*QUICK_AGENT, "--grace", "4", prefix=("sh", "-c", "trap '' INT; exec \"$@\"", "sh"))
    client = Client(front.wait_ready())
    generation_id = client.create("a hang red circle")
    streams = [client.stream(generation_id) for _ in range(8)]
    for stream in streams:
        assert [next(stream).WhichOneof("payload") for _ in range(2)] == ["header", "frame"]
    health = client.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert next(health).status == SERVING
    assert len(front.note_processes()) == 3
    began = time.monotonic()
    os.kill(front.process.pid, number)
    assert next(health).status == NOT_SERVING
    assert time.monotonic() - began < 1
    wait_until(lambda: is_draining(client), what="no new generation is taken")
    assert client.get(generation_id).state == generation_pb2.GENERATION_STATE_RUNNING, "the rest has gone on so far"
    for stream in streams:
        (last,) = list(stream)
        assert last.end.error.reason == "SERVER_DRAINING"
        assert last.end.next_frame_index == 1
    assert not list(health), "closed in order"
    assert front.wait() == 0
    assert time.monotonic() - began < 4.5
    assert not front.ready_file.exists()
    assert_nothing_left(front)
    client.channel.close()


def is_draining(client) -> bool:
    try:
        client.create()
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE and "the server is shutting down" in error.details()
    return False


def test_stop_lets_the_running_generation_end(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    generation_id = client.create("a slow red circle")
    stream = client.stream(generation_id)
    assert [next(stream).WhichOneof("payload") for _ in range(2)] == ["header", "frame"]
    os.kill(front.process.pid, signal.SIGTERM)
    wait_until(lambda: is_draining(client))
    client.cancel(generation_id)
    (last,) = list(stream)
    assert last.end.state == generation_pb2.GENERATION_STATE_CANCELLED
    assert front.wait() == 0
    assert_nothing_left(front)
    client.channel.close()


def test_stop_takes_the_ranks_from_a_generation_that_cannot_end(front_process):
    # 3 s for the call after the signal, and 3 s for the rank to answer.
    front = front_process(*QUICK_AGENT, "--grace", "12", "--drain-delay", "3")
    client = Client(front.wait_ready())
    generation_id = client.create("a slow red circle")
    stream = client.stream(generation_id)
    assert [next(stream).WhichOneof("payload") for _ in range(2)] == ["header", "frame"]
    os.kill(front.process.pid, signal.SIGTERM)
    assert client.create(), "taken until the delay is over"
    (last,) = list(stream)
    assert last.end.state == generation_pb2.GENERATION_STATE_PENDING
    assert last.end.error.reason == "SERVER_DRAINING"
    assert front.wait() == 0
    client.channel.close()


def test_case_70_hangup_changes_nothing(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    os.kill(front.process.pid, signal.SIGHUP)
    wait_until(lambda: "SIGHUP: there is nothing to reload" in front.stderr)
    assert client.watch(client.create())[-1].state == generation_pb2.GENERATION_STATE_SUCCEEDED
    assert front.stop() == 0
    assert_nothing_left(front)
    client.channel.close()


def test_case_57_killed_front_takes_agent_and_ranks_along(front_process):
    front = front_process()
    front.wait_ready()
    processes = front.note_processes()
    front.process.kill()
    front.process.wait()
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive
    # The next start clears what only a living front can.
    front.ready_file.unlink()
    following = front_process(*QUICK_AGENT, name="front")
    following.wait_ready()
    assert following.stop() == 0
    assert_nothing_left(front)


def test_killed_agent_takes_its_ranks_along_and_is_replaced(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    (agent,) = psutil.Process(front.process.pid).children()
    ranks = agent.children()
    agent.kill()
    assert_gone([agent, *ranks])
    assert client.watch(client.create())[-1].state == generation_pb2.GENERATION_STATE_SUCCEEDED
    client.channel.close()


def test_case_53_generation_that_does_not_fit_fails_by_name_and_is_not_held_against_the_group(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    for _ in range(6):  # more than the losses that end a server
        failed = client.watch(client.create("a huge red circle"))[-1]
        assert failed.error.reason == "GPU_OUT_OF_MEMORY"
        assert failed.error.code == code_pb2.RESOURCE_EXHAUSTED
        assert "80 GiB" in failed.error.message
    assert client.watch(client.create())[-1].state == generation_pb2.GENERATION_STATE_SUCCEEDED
    client.channel.close()


def test_case_50_stopped_rank_is_noticed_and_replaced(front_process):
    # Long enough for a rank that starts late, and only the missing beats can tell.
    front = front_process(*QUICK_AGENT, "--beat-timeout", "6", "--hang-timeout", "60")
    client = Client(front.wait_ready())
    generation_id = client.create("a hang red circle")
    stopped = psutil.Process(client.info().ranks[1].pid)
    stopped.suspend()
    assert client.watch(generation_id)[-1].state == generation_pb2.GENERATION_STATE_SUCCEEDED
    assert f"rank 1 (pid {stopped.pid}) gave no sign of life for 6 s" in front.stderr
    assert client.metric('vinf_worker_restarts_total{cause="hang"}') == 1
    assert_gone([stopped])
    client.channel.close()


def test_case_51_rank_that_beats_but_gets_nowhere_is_replaced(front_process):
    front = front_process(*QUICK_AGENT)
    client = Client(front.wait_ready())
    generation_id = client.create("a hang red circle", seed=5)
    assert_is_video(list(client.stream(generation_id)), seed=5, start=0, stop=16)
    assert "the ranks hang: no progress for" in front.stderr
    assert "a step usually takes 0.01 s" in front.stderr
    assert client.metric('vinf_worker_restarts_total{cause="hang"}') == 1
    client.channel.close()


def test_case_56_crash_loop_ends_with_the_ranks_own_words(front_process):
    front = front_process(*QUICK_AGENT, "--model", "crash")
    assert front.wait() == 1
    assert front.stderr.count("launched 2 ranks") == 5
    assert "cannot load its weights" in front.stderr
    last = front.stderr.splitlines()[-1]
    assert "the group of ranks was lost 5 times within 10 minutes; giving up" in last
    assert "cannot load its weights" in last
    assert_nothing_left(front)


def test_case_70_second_signal_stops_at_once(front_process):
    front = front_process(*QUICK_AGENT)
    front.wait_ready()
    for process in front.note_processes():
        process.suspend()  # nothing of the group will leave by itself
    os.kill(front.process.pid, signal.SIGTERM)
    wait_until(lambda: "vinf is stopping" in front.stderr)
    os.kill(front.process.pid, signal.SIGTERM)
    assert front.wait() == 128 + signal.SIGTERM
    assert_nothing_left(front)


def test_unknown_model_is_one_line(front_process):
    front = front_process(*QUICK_AGENT, "--model", "unknown")
    assert front.wait() == 2
    assert front.stderr.splitlines()[-1] == "vinf serve: error: no model is called 'unknown'"
    assert "Traceback" not in front.stderr


def test_signal_before_the_group_is_ready(front_process):
    front = front_process()
    wait_until(lambda: "launched 2 ranks" in front.stderr)
    os.kill(front.process.pid, signal.SIGTERM)
    assert front.wait() == 0
    assert "Traceback" not in front.stderr


def test_front_never_imports_torch():
    code = (
        "import sys, vinf_server.cli, vinf_server.front.app; "
        "print(*(name for name in ('torch', 'diffusers', 'vinf_core.models.adapter') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_nobody_else_can_read_what_a_server_keeps(front_process):
    """Prompts are in the database and may be in logs; frames are in the spool."""
    front = front_process(*QUICK_AGENT)
    front.wait_ready()
    kept = [path for path in (front.folder / "data").rglob("*") if not path.is_symlink()]
    assert {"vinf.db", "lock", "spool", "logs"} <= {path.name for path in kept}, kept
    open_to_others = [str(path) for path in kept if path.stat().st_mode & 0o077]
    assert not open_to_others
