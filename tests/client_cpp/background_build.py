"""The C++ client is compiled while other tests run: they wait for processes and timers much of the time.

Where several workers run the tests, one of them builds for all.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from tests.client_cpp.toolchain import BUILD, SOURCE, VIEWER, need, try_to_install
from tests.conftest import RUN_FOLDER

OPTIONS = ("VINF_BUILD_TESTS", "VINF_BUILD_EXAMPLES", "VINF_BUILD_BENCH", "VINF_WARNINGS_AS_ERRORS")
KEPT = "VINF_CPP_BUILD"
"""Variable with a folder that is kept and built further, for who works on the library."""


class BackgroundBuild:
    """One build; `start` it, and `wait` for it where it is needed."""

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self._build, name="cpp-build", daemon=True)
        self._process: subprocess.Popen[str] | None = None
        self._is_stopping = False
        self._failure = ""
        self._missing = ""
        self._folder = Path(os.environ.get(KEPT) or Path(os.environ[RUN_FOLDER], "cpp"))

    def start(self) -> None:
        self._thread.start()

    def wait(self, timeout: float) -> Path:
        """Return the folder with every program; skips the test where something to build with is missing."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"the C++ client is not built after {timeout:g} s"
        if self._missing:
            need(BUILD)
        assert not self._failure, self._failure
        return self._folder

    def stop(self) -> None:
        """End it; what it made goes with the folder of the run."""
        self._is_stopping = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._thread.join(60)

    def _build(self) -> None:
        self._missing = try_to_install(BUILD)
        if self._missing:
            return
        try_to_install(VIEWER)
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file lets the next worker in: it finds everything built
            self._compile()

    def _compile(self) -> None:
        options = [f"-D{option}=ON" for option in OPTIONS]
        # What the tests beside it do matters more.
        self._run("nice", "-n", "19", "cmake", "-G", "Ninja", "-S", SOURCE, "-B", self._folder, *options)
        self._run("nice", "-n", "19", "ninja", "-C", self._folder)

    def _run(self, *command: object) -> None:
        if self._failure or self._is_stopping:
            return
        arguments = list(map(str, command))
        self._process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        said, _ = self._process.communicate()
        if self._process.returncode:
            self._failure = f"{arguments}: exit {self._process.returncode}\n{said[-8000:]}"
