"""One build of the C++ client for all tests, and a front whose frames are numbers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from tests.chaos.front import ChaosFront
from tests.chaos.proxy import Proxy
from tests.client_cpp.background_build import BackgroundBuild
from vinf.v1 import video_generation_service_pb2 as v1
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client import Client

RANKS = (*("--device", "cpu", "--rank-module", "tests.client_cpp.rank", "--agent-module", "tests.server.fake_agent"),)

SANITIZERS = ("asan", "tsan")

ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1",
    "LSAN_OPTIONS": f"suppressions={Path(__file__).with_name('lsan.supp')}:print_suppressions=0",
    # gRPC and abseil come from Debian without instrumentation: their locks are invisible.
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1",
}

BUILD_TIMEOUT_S = 1200
"""Two idle cores take little more than a minute."""


_BUILD = pytest.StashKey[BackgroundBuild]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to compile when it is known that some test will want it."""
    if not session.config.option.collectonly and any(
        "built" in getattr(item, "fixturenames", ()) for item in session.items
    ):
        session.config.stash[_BUILD] = BackgroundBuild()
        session.config.stash[_BUILD].start()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave no compiler behind."""
    build = session.config.stash.get(_BUILD, None)
    if build is not None:
        build.stop()


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> Path:
    """The folder with every program."""
    return request.config.stash[_BUILD].wait(BUILD_TIMEOUT_S)


@pytest.fixture(params=SANITIZERS)
def sanitizer(request) -> str:
    return request.param


@pytest.fixture
def drive(built, sanitizer):
    """Run client/cpp/tests/drive.cc under a sanitizer."""
    driver = Driver(built / f"drive_{sanitizer}")
    yield driver
    driver.close()


@pytest.fixture
def drive_once(built):
    """The same where one sanitizer is enough."""
    driver = Driver(built / "drive_asan")
    yield driver
    driver.close()


@dataclass
class Outcome:
    """What a run of the driver printed."""

    lines: list[str]
    stats: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stats = {name: int(value) for name, value in self.pairs("stat")}

    def pairs(self, word: str) -> list[list[str]]:
        return [line.split(" ")[1:] for line in self.lines if line.startswith(word + " ")]

    def all(self, word: str) -> list[str]:
        return [line.partition(" ")[2] for line in self.lines if line.startswith(word + " ")]

    def one(self, word: str) -> str:
        (found,) = self.all(word)
        return found

    @property
    def status(self) -> str:
        """Such as "NOT_FOUND reason=GENERATION_NOT_FOUND"."""
        return self.one("status")

    @property
    def indices(self) -> list[int]:
        return [int(entry[0]) for entry in self.pairs("frame")]


class Run:
    """A driver that is running."""

    def __init__(self, command: list[str]) -> None:
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115  # a pipe might fill up; `stderr` closes it
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )
        self.lines: list[str] = []
        self._complaints = ""

    def wait_for(self, word: str) -> str:
        """Read until a line that starts with a word."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith(word):
                return self.lines[-1]
        raise AssertionError(f"it ended without {word!r}: {self.lines[-20:]}\n{self.stderr()}")

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> Outcome:
        """Read the rest and wait; the program has time limits of its own, and so has the test."""
        self.lines += self.process.stdout.read().splitlines()
        self.kill()
        assert self.process.returncode == 0, f"exit {self.process.returncode}\n{self.stderr()}"
        return Outcome(self.lines)

    def kill(self) -> None:
        """Leave nothing behind."""
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.stderr()

    def stderr(self) -> str:
        """What it complained about."""
        if not self._stderr.closed:
            self._stderr.seek(0)
            self._complaints = self._stderr.read()[-8000:]
            if self.process.returncode is not None:
                self._stderr.close()
        return self._complaints


class Driver:
    def __init__(self, program: Path) -> None:
        self.program = program
        self.runs: list[Run] = []

    def start(self, command: str, *arguments: object, **options: object) -> Run:
        words = [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
        self.runs.append(Run([str(self.program), command, *map(str, arguments), *words]))
        return self.runs[-1]

    def close(self) -> None:
        """End what a failed test has left running."""
        for started in self.runs:
            if started.process.poll() is None:
                started.process.kill()
            started.kill()

    def __call__(self, command: str, *arguments: object, **options: object) -> Outcome:
        return self.start(command, *arguments, **options).end()


class Front(ChaosFront):
    """A front with a client of it; frames take `interval_s` each."""

    def __init__(self, *arguments: str, interval_s: float = 0.0) -> None:
        super().__init__(*RANKS, *arguments)
        self._held_from = self.folder / "held_from"
        os.environ["VINF_TEST_FRAME_INTERVAL_S"] = str(interval_s)
        os.environ["VINF_TEST_HELD_FROM"] = str(self._held_from)

    def begin(self) -> None:
        """Begin a life, and wait until it is ready."""
        self.start()
        asyncio.run(self.wait_ready())

    def hold_from(self, index: int) -> None:
        """Have this frame and those behind it made no earlier than `let_go`: no generation ends before a test is ready.

        For generations that are made after this.
        """
        self._held_from.write_text(str(index))

    def let_go(self) -> None:
        """Have the rest made."""
        self._held_from.unlink()

    def make(self, *, frames: int = 40, wait: bool = True, **fields):
        """A generation, made to its end unless told otherwise."""
        options = {"frames": frames, "seed": 5, "width": 64, "height": 32, "detached": True} | fields
        with Client(self.address) as client:
            handle = client.submit("a red circle", **options)
            if wait:
                handle.wait(timeout=120)
        return handle.generation_id

    def frames(self, generation_id: str) -> list[bytes]:
        """What the Python client gets."""
        with Client(self.address) as client:
            return [frame.data for frame in client.attach(generation_id).frames()]

    def pull(self, request: v1.PullFramesRequest) -> v1.PullFramesResponse:
        """A raw call."""
        options = (("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0))
        with grpc.insecure_channel(self.address, options=options) as channel:
            return VideoGenerationServiceStub(channel).PullFrames(request, timeout=60)


@pytest.fixture
def start_front():
    fronts = []

    def start(*arguments, **options):
        fronts.append(Front(*arguments, **options))
        fronts[-1].begin()
        return fronts[-1]

    yield start
    for front in fronts:
        end(front)


def end(front: Front) -> None:
    for name in ("VINF_TEST_FRAME_INTERVAL_S", "VINF_TEST_HELD_FROM"):
        os.environ.pop(name, None)
    try:
        if not front.has_exited:
            front.stop()
    finally:
        front.end_everything()
        front.remove()


@pytest.fixture(scope="module")
def front():
    """One for all tests of a file that leave it as it was."""
    made = Front()
    made.begin()
    yield made
    end(made)


class ProxyThread:
    """A bad network between the driver and a front."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.proxy = Proxy((host, int(port)))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.do(self.proxy.start())

    @property
    def address(self) -> str:
        return self.proxy.address

    def do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def set(self, weather) -> None:
        self._loop.call_soon_threadsafe(self.proxy.set_weather, weather)

    def close(self) -> None:
        self.do(self.proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


@pytest.fixture
def proxy_to():
    proxies = []

    def make(address):
        proxies.append(ProxyThread(address))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture(autouse=True)
def _no_server_in_the_environment(monkeypatch):
    for name in ("SERVER", "TOKEN", "TLS", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"VINF_{name}", raising=False)
