"""One run of the elastic agent: its command line, its environment, its logs and its end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.config import ServeConfig
from vinf_server.front.engine.spare import SpareAgent, new_agent_folder
from vinf_server.logs import FORMAT_VARIABLE, words_of

_AGENT_LOG = "agent.log"
_TAIL_LINES = 20
_VERDICT_POLL_S = 0.05
_END_POLL_S = 0.01

SHARED_VARIABLES = (
    *("VINF_EPOCH", "VINF_MODEL", "VINF_MODEL_BASE", "VINF_MODEL_REVISION", "VINF_MODEL_OPTIONS", "VINF_DTYPE"),
    *("VINF_CFG_RANKS", "VINF_CONTEXT_RANKS"),
    *("VINF_RANK_WEIGHTS", "VINF_MEMORY_BUDGET", "VINF_KNOWN_MEMORY"),
    *("VINF_SKIP_NEGLIGIBLE", "VINF_DETERMINISTIC"),
)
"""What ranks are told wherever they run; the rest is each host's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendezvous:
    """Where the agents of several hosts meet."""

    id: str
    endpoint: str
    host_count: int
    local_addr: str
    """Address of this host for the ranks of the others."""
    is_host: bool
    """Whether the endpoint is on this host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchPlan:
    """What one launch needs besides the configuration."""

    epoch: int
    link_address: str
    log_folder: Path
    failure_file: Path
    memory: link_pb2.MemoryModel | None = None
    """What the ranks of an earlier launch measured."""
    rendezvous: Rendezvous | None = None
    """None: the group is on this host alone."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the ranks are told besides."""

    @property
    def private_folder(self) -> Path:
        """Where this front and its agents keep what is nobody else's."""
        return self.failure_file.parent


@dataclass(frozen=True, slots=True)
class RankFailure:
    """A rank could not start and says that another try would not help."""

    reason: str
    message: str


def agent_command(config: ServeConfig, plan: LaunchPlan, folder: Path) -> list[str]:
    """torchrun on this host, through the shim that dies with this process; `folder` is for its sockets."""
    shim = (sys.executable, "-m", config.agent_module, str(os.getpid()), str(folder))
    return [*shim, *torchrun_arguments(config, plan)]


def torchrun_arguments(config: ServeConfig, plan: LaunchPlan) -> list[str]:
    """What torchrun is told about the group."""
    return [
        *_meeting_arguments(plan.rendezvous, plan.epoch),
        *("--nproc-per-node", str(config.ranks), "--max-restarts", "0"),
        *("--start-method", start_method(config)),
        *("--log-dir", str(plan.log_folder), "--redirects", "3"),
        *("-m", config.rank_module),
    ]


def start_method(config: ServeConfig) -> str:
    """How ranks come to be: CUDA does not survive a fork."""
    return "spawn" if config.uses_cuda else "forkserver"


def _meeting_arguments(rendezvous: Rendezvous | None, epoch: int) -> tuple[str, ...]:
    if rendezvous is None:
        return (
            "--nnodes",
            "1",
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "localhost:0",
            "--rdzv-id",
            f"vinf-{epoch}",
        )
    # The front ends every agent when one is lost, so agents need not watch each other: they are patient with a slow
    # start, and with clocks that differ by less than a minute, which they compare to tell who is alive.
    conf = f"is_host={int(rendezvous.is_host)},join_timeout=3600,read_timeout=60"
    conf += ",keep_alive_interval=5,keep_alive_max_attempt=12"
    return (
        *("--nnodes", str(rendezvous.host_count), "--rdzv-backend", "c10d", "--rdzv-id", rendezvous.id),
        *("--rdzv-endpoint", rendezvous.endpoint, "--rdzv-conf", conf, "--local-addr", rendezvous.local_addr),
    )


def process_environment(config: ServeConfig) -> dict[str, str]:
    """What an agent must know before it imports anything, on top of the front's own environment."""
    return {
        **os.environ,
        # With a shared store, the death of rank 0 would take the agent's rendezvous along.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # Threads that spin while they wait starve the other ranks of their cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // config.ranks)),
        "PYTHONFAULTHANDLER": "1",
    }


def agent_environment(config: ServeConfig, plan: LaunchPlan) -> dict[str, str]:
    """What the agent and the ranks read."""
    return {
        **process_environment(config),
        "VINF_LINK": plan.link_address,
        "VINF_EPOCH": str(plan.epoch),
        "VINF_MODEL": config.model,
        "VINF_MODEL_BASE": config.model_base,
        "VINF_MODEL_REVISION": config.model_revision,
        "VINF_MODEL_OPTIONS": json.dumps(dict(config.model_options)),
        "VINF_DEVICE": config.device,
        "VINF_DTYPE": config.dtype,
        "VINF_CFG_RANKS": str(config.mesh.cfg),
        "VINF_CONTEXT_RANKS": str(config.mesh.context),
        "VINF_RANK_WEIGHTS": str(config.rank_weights),
        "VINF_MEMORY_BUDGET": str(config.memory_budget or 0),
        "VINF_KNOWN_MEMORY": _memory_text(plan.memory),
        "VINF_SKIP_NEGLIGIBLE": str(int(config.skip_negligible)),
        "VINF_DETERMINISTIC": str(int(config.deterministic)),
        FORMAT_VARIABLE: config.log_format,
        "VINF_FRONT_PID": str(os.getpid()),
        "VINF_FAILURE_FILE": str(plan.failure_file),
        **plan.environment,
    }


def _memory_text(memory: link_pb2.MemoryModel | None) -> str:
    if memory is None:
        return ""
    return json.dumps({field.name: getattr(memory, field.name) for field in memory.DESCRIPTOR.fields})


async def start_spare(config: ServeConfig, log: Path) -> SpareAgent:
    """Start an agent that waits for a launch; OSError when that is not possible."""
    return await SpareAgent.start(
        config, log, environment=process_environment(config), start_method=start_method(config)
    )


class Agent:
    """A running agent and the ranks below it."""

    def __init__(self, process: asyncio.subprocess.Process, plan: LaunchPlan, folder: Path) -> None:
        self._process = process
        self._plan = plan
        self._folder = folder
        self._descendants: set[psutil.Process] = set()
        self._trackers: set[psutil.Process] = set()
        self.exited = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(cls, config: ServeConfig, plan: LaunchPlan, spare: SpareAgent | None = None) -> Agent:
        """Start it from this thread, the main one: the kernel's death signal follows the thread that forked.

        A spare agent is used where there is one that lives.
        """
        plan.failure_file.unlink(missing_ok=True)
        log_path = plan.log_folder / _AGENT_LOG
        environment = agent_environment(config, plan)
        if spare is not None:
            process = await spare.launch(torchrun_arguments(config, plan), environment, log_path)
            if process is not None:
                return cls(process, plan, spare.folder)
        folder = new_agent_folder(plan.private_folder)
        with open(log_path, "wb") as log:  # noqa: ASYNC230  # nothing runs yet that it could delay
            process = await asyncio.create_subprocess_exec(
                *agent_command(config, plan, folder),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return cls(process, plan, folder)

    async def stop(self, *, grace_s: float) -> None:
        """End it with SIGTERM, and with SIGKILL when that takes too long; nothing of it is left afterwards."""
        self.note_descendants()
        if not self.exited.done():
            self._signal(signal.SIGTERM)
            await self.wait(timeout_s=grace_s)
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL whatever still lives of the agent and its ranks."""
        self.kill_now()
        await self.exited
        await asyncio.to_thread(_wait_until_ended, {*self._descendants, *self._trackers}, timeout_s=2)
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill_now(self) -> None:
        """SIGKILL the agent and every rank ever seen below it, without waiting."""
        self.note_descendants()
        if not self.exited.done():
            self._signal(signal.SIGKILL)
        for process in self._descendants:
            # psutil compares start times: a pid that was used again is left alone.
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def dump_stacks(self) -> None:
        """Have every rank write down where it stands, which one that is stopped cannot."""
        self.note_descendants()
        for process in self._descendants:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGUSR1)

    async def wait(self, *, timeout_s: float) -> bool:
        """Wait for the agent's own end; False when it did not come in time."""
        done, _ = await asyncio.wait((self.exited,), timeout=timeout_s)
        return bool(done)

    def note_descendants(self) -> None:
        """Remember the ranks: they have sessions of their own and lose their parent when the agent dies.

        Python's resource tracker is left alone: it removes what the others leave behind, and ends after them.
        """
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                if process not in self._descendants and process not in self._trackers:
                    (self._trackers if _is_tracker(process) else self._descendants).add(process)

    def read_rank_failure(self) -> RankFailure | None:
        """What a rank left to say before it gave up for good."""
        try:
            content = json.loads(self._plan.failure_file.read_text())
            return RankFailure(str(content["reason"]), str(content["message"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    async def wait_for_verdict(self, *, timeout_s: float) -> None:
        """Wait until the agent has named the rank that failed first, or has ended; it needs a fraction of a second."""
        deadline = time.monotonic() + timeout_s
        while not self.exited.done() and self._rank_failure() is None and time.monotonic() < deadline:
            await self.wait(timeout_s=_VERDICT_POLL_S)

    def exit_summary(self) -> str:
        """Who failed first and how, for example ``rank 1 ended with signal 9``."""
        if self._rank_failure() is None and self._process.returncode is None:
            return "the agent was still running"
        who, code = self._verdict()
        return f"{who} ended with " + (f"signal {-code}" if code < 0 else f"exit code {code}")

    @property
    def ended_by_signal(self) -> bool:
        """True when the first one to fail was killed by a signal."""
        return self._verdict()[1] < 0

    def log_tail(self, rank: int | None = None) -> str:
        """The last lines of the rank that failed first, else of the one given, or of the agent."""
        failure = self._rank_failure() or (None if rank is None else (rank, 0))
        # Where a rank failed, the agent's own log holds nothing but its traceback about it.
        pattern = f"*/attempt_*/{failure[0]}/stderr.log" if failure else _AGENT_LOG
        for path in self._plan.log_folder.glob(pattern):
            if tail := _read_tail(path, _TAIL_LINES):
                return f"last lines of {path}:\n{tail}"
        return f"logs are in {self._plan.log_folder}"

    def last_words(self, rank: int | None = None) -> str:
        """The very last line of what `log_tail` shows, empty when there is none."""
        _, _, tail = self.log_tail(rank).partition("\n")
        lines = [line for line in tail.splitlines() if line.strip()]
        return words_of(lines[-1]) if lines else ""

    def _verdict(self) -> tuple[str, int]:
        failure = self._rank_failure()
        return (f"rank {failure[0]}", failure[1]) if failure else ("the agent", self._process.returncode or 0)

    def _rank_failure(self) -> tuple[int, int] | None:
        """Rank and exit code (negative: signal) as the agent logs them when it first sees a dead rank."""
        text = _read_tail(self._plan.log_folder / _AGENT_LOG, 1000)
        match = re.search(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)", text)
        return (int(match[2]), int(match[1])) if match else None

    def _signal(self, number: signal.Signals) -> None:
        """Signal the agent alone: its ranks follow it, and Python's resource tracker must outlive them."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


def _wait_until_ended(processes: set[psutil.Process], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(map(_lives, processes)):
        time.sleep(_END_POLL_S)


def _lives(process: psutil.Process) -> bool:
    """False also for one that has ended and that init has yet to collect: they are nobody's children any more."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("multiprocessing.resource_tracker" in argument for argument in process.cmdline())
    except psutil.Error:
        return False  # it has ended


def _read_tail(path: Path, lines: int) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
