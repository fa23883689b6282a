"""A real `vinf serve` that may be killed and started anew on the same port and data directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

import psutil

Result = TypeVar("Result")

ROOT = Path(__file__).parents[2]

SCRIPTED_RANKS = (
    *("--device", "cpu", "--rank-module", "tests.server.fake_rank", "--agent-module", "tests.server.fake_agent"),
)
"""Arguments for a group that is up in a second and makes frames out of numbers."""

READY_TIMEOUT_S = 180.0
"""Ranks import torch, which takes a busy machine a long time."""

MAX_LOG_BYTES = 64 << 20
"""Far above what a server writes; a longer log is read in part."""

PROCESSES_BESIDE_RANKS = 6
"""The agent of a group and a spare one for the next, each with a fork server and Python's resource tracker."""

_MARK = "VINF_CHAOS_RUN"
"""A variable of the environment that every process of the server inherits, however far down."""


def run_to_the_end(work: Coroutine[object, object, Result]) -> Result:
    """asyncio.run for a program that owns a server: SIGTERM ends it as Ctrl-C does, and the server with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return asyncio.run(work)


class FrontNotReadyError(Exception):
    """The server did not start; the message holds its last words."""


class ChaosFront:
    """One server over many lives. `folder` is its own, short enough for sockets, and removed by `remove`."""

    def __init__(self, *arguments: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vinf-chaos-"))
        self.log_path = self.folder / "front.log"
        self.private = self.folder / "tmp"
        """TMPDIR of everything the server starts: what it leaves there is a leak."""

        self.private.mkdir()
        self.port = _free_port()
        self.lives = 0
        self._mark = uuid.uuid4().hex
        self._ready_file = self.folder / "ready.json"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it listens, in every life."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the front in this life."""
        assert self._process is not None
        return self._process.pid

    @property
    def has_exited(self) -> bool:
        """Whether this life is over."""
        return self._process is None or self._process.poll() is not None

    def start(self) -> None:
        """Begin a life; returns at once."""
        self._ready_file.unlink(missing_ok=True)
        command = [
            *(sys.executable, "-m", "vinf_server.cli", "--listen", self.address, "--metrics", "127.0.0.1:0"),
            *("--data-dir", str(self.folder / "data"), "--ready-file", str(self._ready_file)),
            *self._arguments,
        ]
        environment = os.environ | {_MARK: self._mark, "TMPDIR": str(self.private)}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )
        self.lives += 1

    async def wait_ready(self) -> None:
        """Return when the group of this life is up for the first time."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._is_ready():
            if self.has_exited or time.monotonic() > deadline:
                raise FrontNotReadyError(f"the server did not become ready:\n{self.log()[-4000:]}")
            await asyncio.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the front."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code.

        Raises:
            subprocess.TimeoutExpired: it does not end; it is killed then.
        """
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def agent(self) -> psutil.Process | None:
        """The process that has started the ranks, if there is one now."""
        return agent_below(self.pid)

    def ranks(self) -> list[psutil.Process]:
        """Of the group there is now, if there is one."""
        agent = self.agent()
        return ranks_below(agent) if agent is not None else []

    def metric(self, name: str) -> float:
        """One number without labels from the page for Prometheus."""
        address = json.loads(self._ready_file.read_text())["metrics"]
        page = urllib.request.urlopen(f"http://{address}/metrics", timeout=30).read().decode()
        (line,) = [line for line in page.splitlines() if line.startswith(name + " ")]
        return float(line.rpartition(" ")[2])

    @property
    def log_bytes(self) -> int:
        """How much it wrote, in all lives."""
        return self.log_path.stat().st_size

    def log(self) -> str:
        """What it wrote, in all lives; of a log without end only the end."""
        with self.log_path.open("rb") as file:
            file.seek(max(0, self.log_bytes - MAX_LOG_BYTES))
            return file.read().decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Every living process that the server has started in any life, itself included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def end_everything(self) -> None:
        """Kill what still runs; for the end of a run that went wrong."""
        processes = self.processes()
        for process in processes:
            # It may have gone with the one before. Python's trackers end after the others, and remove their semaphores.
            with contextlib.suppress(psutil.NoSuchProcess):
                if "multiprocessing.resource_tracker" not in " ".join(process.cmdline()):
                    process.kill()
        if self._process is not None:
            self._process.wait()
        psutil.wait_procs(processes, timeout=10)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        # Left behind by an earlier life it would name another process.
        return self._ready_file.exists() and json.loads(self._ready_file.read_text())["pid"] == self.pid


def agent_below(front_pid: int) -> psutil.Process | None:
    """The agent of a front that has ranks now; a spare one has none."""
    return next((child for child in psutil.Process(front_pid).children() if ranks_below(child)), None)


def ranks_below(agent: psutil.Process) -> list[psutil.Process]:
    """The copies of an agent's fork server."""
    return [rank for child in agent.children() for rank in child.children()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
