"""Ranks that die, hang and are stopped, below a real server; one server goes through all of it.

The numbers are those of the project's list of faults. After every fault the same things hold: readiness was red at
once, the group came back by itself, the stream that a client held went on without a gap, the video is the same to the
last bit, and nothing is left behind.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.chaos.front import PROCESSES_BESIDE_RANKS, agent_below, ranks_below
from tests.support import faulty_rank
from tests.support.remains import left_segments, remains_of, shared_memory
from tests.support.server import Server
from vinf_client import Client, GenerationCancelledError, GenerationFailedError, GenerationHandle, Progress

pytestmark = pytest.mark.process

PROMPT = "a red ball bouncing over the sea"
WANTED = {"frames": 32, "seed": 2, "steps": 8}
SERVICE = "vinf.v1.VideoGenerationService"
SERVING = health_pb2.HealthCheckResponse.SERVING

USUAL_RED_S = 1.0
"""From the death of a rank to readiness red, in the middle of all cases."""

MAX_RED_S = 5.0
"""The same in any one case: others may want the processor at that moment."""

MAX_SILENCE_S = 6.0
"""From a rank's silence to readiness red: four seconds of it, the pace of beats, and of looking at them."""

MAX_STUCK_S = 60.0
"""From the last progress to readiness red; the limit proper depends on what a step usually takes."""


class Faults:
    """A server whose health is watched, and the video it makes when nothing happens."""

    def __init__(self, server: Server, orders: Path) -> None:
        self.server = server
        self._orders = orders
        self.client = Client(server.address)
        self._channel = grpc.insecure_channel(server.address)
        self._changes: list[tuple[float, int]] = []
        self._changed = threading.Condition()
        self.reds: list[float] = []
        """Seconds from each death of a rank to readiness red."""
        self._watch = health_pb2_grpc.HealthStub(self._channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        threading.Thread(target=self._follow, daemon=True).start()
        self.undisturbed = self.video()

    def close(self) -> None:
        self._watch.cancel()
        self._channel.close()
        self.client.close()

    def video(self) -> np.ndarray:
        return np.stack(list(self.client.submit(PROMPT, **WANTED).frames()))

    def order(self, rank: int, fault: str, *, after_calls: int = 0) -> None:
        """Have a call of a rank's model fail, of those to come; see `tests.support.faulty_rank`."""
        order = self._orders / str(rank)
        faulty_rank.struck_file(order).unlink(missing_ok=True)
        faulty_rank.put(order, f"{after_calls} {fault}")

    def struck_at(self, rank: int) -> float:
        """Wait until an order was carried out; return when that was."""
        struck = faulty_rank.struck_file(self._orders / str(rank))
        deadline = time.monotonic() + 60
        while not struck.exists():
            assert time.monotonic() < deadline, f"rank {rank} never failed\n{self.server.log.read_text()}"
            time.sleep(0.02)  # another process's doing: nothing to wait on but the clock
        return float(struck.read_text())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have ranks wait before they load their model."""
        hold = self._orders / faulty_rank.HOLD
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def ranks(self) -> list[psutil.Process]:
        return [psutil.Process(rank.pid) for rank in self.client.info().ranks]

    def red_after(self, since: float, *, timeout: float = 60) -> float:
        """Seconds from then to the first sign of red readiness."""
        return self._wait(lambda at, status: at > since and status != SERVING, timeout) - since

    def red_after_death(self, since: float) -> float:
        """The same for a rank that died then, which is told at once."""
        self.reds.append(self.red_after(since))
        assert self.reds[-1] < MAX_RED_S
        return self.reds[-1]

    def green_after(self, since: float, *, timeout: float = 180) -> float:
        """Seconds from then to the group being back."""
        return self._wait(lambda at, status: at > since and status == SERVING, timeout) - since

    def _follow(self) -> None:
        try:
            for change in self._watch:
                with self._changed:
                    self._changes.append((time.monotonic(), change.status))
                    self._changed.notify_all()
        except grpc.RpcError:
            return  # cancelled at the end

    def _wait(self, wanted: Callable[[float, int], bool], timeout: float) -> float:
        def look() -> float | None:
            return next((at for at, status in self._changes if wanted(at, status)), None)

        with self._changed:
            at = self._changed.wait_for(look, timeout)
        assert at, f"not within {timeout:g} s: {self._changes}\n{self.server.log.read_text()}"
        return at


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """The same server for every fault; the limit of five losses is raised."""
    before = shared_memory()
    folder, temporary, orders = (tmp_path_factory.mktemp(name) for name in ("faults", "tmp", "orders"))
    arguments = ("--ranks", "2", "--rank-weights", "even", "--max-losses", "1000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setenv(faulty_rank.ENVIRONMENT, str(orders))
        server = Server(folder, *arguments, "--rank-module", faulty_rank.__name__, spare=True)
    with server:
        faults = Faults(server, orders)
        try:
            yield faults
        finally:
            faults.close()
    # A front that was killed leaves its private folder to the next one.
    assert not [remains for remains in remains_of(folder / "data") if remains.startswith("process")]
    assert not left_segments(before)
    # torch keeps one cache a user there.
    assert not [path for path in temporary.iterdir() if not path.name.startswith("torchinductor_")]


class Reader:
    """A client that holds one stream over everything that happens."""

    def __init__(self, handle: GenerationHandle) -> None:
        self.handle = handle
        self.frames: list[np.ndarray] = []
        self.times: list[float] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for frame in self.handle.frames():
            self.times.append(time.monotonic())
            self.frames.append(frame)

    def all(self) -> np.ndarray:
        self._thread.join(180)
        assert not self._thread.is_alive(), f"no end of the stream: {self.handle.progress}"
        return np.stack(self.frames)


def wait_for(handle: GenerationHandle, wanted: Callable[[Progress], bool]) -> None:
    reached = threading.Event()

    def look(progress: Progress) -> None:
        if wanted(progress):
            reached.set()

    handle.watch(look)
    assert reached.wait(120), f"not reached: {handle.progress}"


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive


def endure(
    faults: Faults, strike: Callable[[list[psutil.Process]], None], *, step: int, red_s: float | None = None
) -> None:
    """Strike when a generation has done so many steps, or with the first frames for its last step; see it through."""
    handle = faults.client.submit(PROMPT, **WANTED)
    reader = Reader(handle)
    if step < WANTED["steps"]:
        wait_for(handle, lambda progress: progress.completed_step_count >= step)
    else:
        wait_for(handle, lambda progress: progress.completed_frame_count >= 1)
    ranks = faults.ranks()
    struck = time.monotonic()
    strike(ranks)
    overcome(faults, reader, ranks, struck, red_s)


def endure_order(faults: Faults, fault: str, *, red_s: float | None = None) -> float:
    """See a generation through whose fourth step a rank spoils; return the seconds from there to readiness red."""
    ranks = faults.ranks()
    faults.order(1, fault, after_calls=3)
    reader = Reader(faults.client.submit(PROMPT, **WANTED))
    return overcome(faults, reader, ranks, faults.struck_at(1), red_s)


def overcome(faults: Faults, reader: Reader, ranks: list[psutil.Process], struck: float, red_s: float | None) -> float:
    """See that the group is replaced and the video is the same; return the seconds to readiness red.

    These have a limit of their own where no rank died.
    """
    if red_s is None:
        red = faults.red_after_death(struck)
    else:
        red = faults.red_after(struck)
        assert red < red_s
    np.testing.assert_array_equal(reader.all(), faults.undisturbed)
    faults.green_after(struck)
    assert_gone(ranks)
    return red


def test_case_46_first_rank_is_killed_while_denoising(faults: Faults) -> None:
    endure(faults, lambda ranks: ranks[0].kill(), step=3)


def test_the_killed_rank_is_named_though_the_other_fails_with_it(faults: Faults) -> None:
    """Its next collective fails at once, and the agent would find either."""
    before = len(re.findall("rank 1 ended with signal 9", faults.server.log.read_text()))
    endure(faults, lambda ranks: ranks[-1].kill(), step=3)
    assert len(re.findall("rank 1 ended with signal 9", faults.server.log.read_text())) == before + 1


def test_case_47_49_last_rank_is_killed_while_decoding(faults: Faults) -> None:
    endure(faults, lambda ranks: ranks[-1].kill(), step=WANTED["steps"])


def test_case_48_49_both_ranks_are_killed_while_idle(faults: Faults) -> None:
    ranks = faults.ranks()
    struck = time.monotonic()
    for rank in ranks:
        rank.kill()
    faults.red_after_death(struck)
    faults.green_after(struck)
    assert_gone(ranks)


def test_case_49_59_rank_is_killed_while_it_warms_up(faults: Faults) -> None:
    """And the group after it, before it is ready; the ports of the rendezvous that torch is known for are taken."""
    taken = [socket.create_server(("127.0.0.1", port)) for port in (29400, 29500) if is_free(port)]
    try:
        logs, struck = set(faults.server.logs()), time.monotonic()
        with faults.held():
            faults.ranks()[1].kill()
            faults.red_after_death(struck)
            young = young_rank(faults, logs)
            young.kill()
        faults.green_after(struck)
        assert_gone([young])
        np.testing.assert_array_equal(faults.video(), faults.undisturbed)
    finally:
        for listener in taken:
            listener.close()


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def young_rank(faults: Faults, old_logs: set[Path]) -> psutil.Process:
    """A rank of the launch after those with these logs, once it has begun to load its model."""
    deadline = time.monotonic() + 60
    while True:
        for folder in set(faults.server.logs()) - old_logs:
            for log in folder.glob("*/attempt_0/1/stderr.log"):
                if ": loads " not in log.read_text():
                    continue
                # A copy of the fork server has its command line; what it writes to is its own.
                family = psutil.Process(faults.server.process.pid).children(recursive=True)
                (rank,) = [process for process in family if Path(f"/proc/{process.pid}/fd/2").resolve() == log]
                assert not faults.client.info().ready
                return rank
        assert time.monotonic() < deadline, "no rank of the next group"
        time.sleep(0.02)  # another process's doing: nothing to wait on but the clock


def test_case_50_stopped_rank_is_replaced_and_cannot_come_back(faults: Faults) -> None:
    def stop_and_go_on(ranks: list[psutil.Process]) -> None:
        ranks[1].suspend()
        going_on = threading.Timer(20, lambda: ranks[1].is_running() and ranks[1].resume())
        going_on.daemon = True
        going_on.start()

    endure(faults, stop_and_go_on, step=3, red_s=MAX_SILENCE_S)


def test_case_51_rank_that_stands_still_in_a_step_is_replaced(faults: Faults) -> None:
    red = endure_order(faults, faulty_rank.STUCK, red_s=MAX_STUCK_S)
    (usual,) = set(re.findall(r"the ranks hang: .*, a step usually takes (\d+\.\d+) s", faults.server.log.read_text()))
    assert red < max(5.0, 10 * float(usual)) + 3


def test_case_52_rank_fails_after_good_steps(faults: Faults) -> None:
    endure_order(faults, faulty_rank.RAISE)


def test_case_53_rank_runs_out_of_memory(faults: Faults) -> None:
    """The generation fails, and the next one has a group that is as good as new."""
    struck = time.monotonic()
    faults.order(0, faulty_rank.OUT_OF_MEMORY)
    handle = faults.client.submit(PROMPT, **WANTED)
    with pytest.raises(GenerationFailedError) as caught:
        handle.wait()
    assert caught.value.reason == "GPU_OUT_OF_MEMORY"
    faults.green_after(struck + faults.red_after(struck))
    np.testing.assert_array_equal(faults.video(), faults.undisturbed)


def test_case_54_output_that_is_no_number_is_made_once_more(faults: Faults) -> None:
    ranks = faults.ranks()
    faults.order(1, faulty_rank.NAN, after_calls=3)
    reader = Reader(faults.client.submit(PROMPT, **WANTED))
    np.testing.assert_array_equal(reader.all(), faults.undisturbed)
    assert "is tried once more" in faults.server.log.read_text()
    assert faults.ranks() == ranks, "the group stays"


def test_case_62_rank_is_ended_by_an_operator(faults: Faults) -> None:
    endure(faults, lambda ranks: ranks[1].terminate(), step=3)


def test_chaos_knows_the_processes_that_it_kills(faults: Faults) -> None:
    """`make chaos` is no test of every day: this one is."""
    front = psutil.Process(faults.server.process.pid)
    agent = agent_below(front.pid)
    assert agent is not None
    assert {rank.pid for rank in ranks_below(agent)} == {rank.pid for rank in faults.ranks()}
    deadline = time.monotonic() + 60
    while len(below := front.children(recursive=True)) != 2 + PROCESSES_BESIDE_RANKS:
        assert time.monotonic() < deadline, [process.cmdline() for process in below]
        time.sleep(0.1)  # the spare agent is another process's business: nothing to wait on but the clock


def test_agent_is_killed(faults: Faults) -> None:
    endure(faults, lambda ranks: os.kill(ranks[0].ppid(), signal.SIGKILL), step=3)


def test_readiness_is_usually_red_within_a_second(faults: Faults) -> None:
    if len(faults.reds) < 3:
        pytest.skip("the tests above have not run")
    assert statistics.median(faults.reds) < USUAL_RED_S, faults.reds


def test_case_42_cancellation_reaches_the_ranks_within_two_steps(faults: Faults) -> None:
    """Waiting, running, being cancelled, ended."""
    client = faults.client
    running, waiting = (client.submit(PROMPT, frames=96, seed=3, steps=200) for _ in range(2))
    wait_for(running, lambda progress: progress.completed_step_count >= 2)
    waiting.cancel()
    with pytest.raises(GenerationCancelledError):
        waiting.wait(timeout=5)
    running.cancel()
    asked_at = client.attach(running.generation_id).progress.completed_step_count
    running.cancel()
    with pytest.raises(GenerationCancelledError):
        running.wait(timeout=30)
    done = client.attach(running.generation_id).progress.completed_step_count
    assert done <= asked_at + 2
    running.cancel()  # changes nothing
    np.testing.assert_array_equal(faults.video(), faults.undisturbed)


def test_case_57_killed_front_leaves_no_rank(faults: Faults) -> None:
    """The last test of this server."""
    faults.client.submit(PROMPT, frames=32, seed=2, steps=100)
    family = faults.server.note_family()
    faults.server.process.kill()
    assert faults.server.process.wait(5) == -signal.SIGKILL
    assert_gone(family)
