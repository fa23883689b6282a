"""A front's rooms on a scratch folder, and fronts as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from vinf_server.front.checkpoints import CheckpointStore
from vinf_server.front.disk import DiskSpace
from vinf_server.front.frames.spool import Spool
from vinf_server.front.generations.generations import Generations
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.retention import Retention
from vinf_server.front.generations.store import SqliteStore
from vinf_server.front.metrics import Metrics

ROOT = Path(__file__).parents[2]

START_TIMEOUT_S = 60.0
"""torchrun imports torch, which takes seconds on a busy machine."""


def wait_until(condition, *, timeout_s=30.0, what="condition"):
    """Poll a condition that another process brings about; returns its first true value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.02)
    return value


QUICK_AGENT = ("--agent-module", "tests.server.fake_agent")
"""For tests that need no torchrun: the group is ready in one second instead of ten."""


class FrontProcess:
    """`vinf serve` with scripted ranks, in a process of its own."""

    def __init__(self, folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.ready_file = folder / "ready.json"
        self.stderr_path = folder / "stderr.txt"
        command = [
            *prefix,
            *(sys.executable, "-m", "vinf_server.cli", "--device", "cpu", "--rank-module", "tests.server.fake_rank"),
            *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data-dir", str(folder / "data")),
            *("--ready-file", str(self.ready_file), *arguments),
        ]
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=stderr, start_new_session=True)
        self.seen: set[psutil.Process] = set()

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def wait_ready(self) -> dict:
        def look():
            assert self.process.poll() is None, self.stderr
            return self.ready_file.exists()

        wait_until(look, timeout_s=START_TIMEOUT_S, what="ready file")
        self.note_processes()
        return json.loads(self.ready_file.read_text())

    def note_processes(self) -> set[psutil.Process]:
        """Remember every process below the front, so that `stop` can tell whether one stayed."""
        found = set(psutil.Process(self.process.pid).children(recursive=True))
        self.seen |= found
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop, wait, and check that nothing is left."""
        if self.process.poll() is None:
            self.note_processes()
            os.kill(self.process.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end and check that nothing is left."""
        try:
            # Only a hang takes so long: some starts one after the other on a busy machine do not.
            code = self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        assert_gone(self.seen)
        return code


def assert_gone(processes) -> None:
    def is_alive(process):
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    wait_until(lambda: not any(map(is_alive, processes)), timeout_s=10, what="end of all processes")


@pytest.fixture
def front_process(tmp_path):
    """Start fronts; whatever a test leaves running is ended after it."""
    fronts = []

    def start(*arguments, name="front", prefix=()):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        fronts.append(FrontProcess(folder, *arguments, prefix=prefix))
        return fronts[-1]

    yield start
    for front in fronts:
        front.stop()


@pytest.fixture
def metrics():
    return Metrics(CollectorRegistry())


@pytest.fixture
def spool(tmp_path):
    folder = tmp_path / "spool"
    folder.mkdir()
    spool = Spool(folder)
    yield spool
    spool.close()


@pytest.fixture
def checkpoints(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    yield store
    store.close()


@pytest.fixture
def store(tmp_path):
    store = SqliteStore(tmp_path / "vinf.db")
    yield store
    store.close()


@pytest.fixture
def generations(store, spool, checkpoints, metrics, tmp_path):
    return Generations(
        store=store,
        queue=GenerationQueue(3),
        spool=spool,
        checkpoints=checkpoints,
        disk=DiskSpace(tmp_path),
        retention=Retention(),
        metrics=metrics,
    )


@pytest.fixture
def sample(metrics):
    """Read one sample; None when there is no such series."""

    def read(name, **labels):
        return metrics.registry.get_sample_value(name, labels)

    return read
