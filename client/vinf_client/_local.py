"""A server of one's own for one call: started, waited for, and always stopped."""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from vinf_client._errors import LocalServerError

_POLL = 0.05  # seconds
_STOP_TIMEOUT = 20.0  # seconds for the server to stop its ranks before it is killed
_LAST_LINES = 15
_PR_SET_PDEATHSIG = 1
_PREFIX = "vinf-"
_LOCK = "in-use.lock"


class LocalServer:
    """`vinf serve` as a child in a session of its own, with its data in a temporary folder.

    Args:
        arguments: what `vinf serve` gets besides where to listen and where to put its files.
        start_timeout: seconds until it must be ready.
        command: the program and its first arguments; the `vinf` of this interpreter by default.
    """

    def __init__(
        self,
        arguments: Sequence[str] = (),
        *,
        start_timeout: float = 600.0,
        command: Sequence[str] = (sys.executable, "-m", "vinf_client.cli", "serve"),
    ) -> None:
        self._arguments = tuple(arguments)
        self._command = tuple(command)
        self._start_timeout = start_timeout
        self._folder: Path | None = None
        self._lock = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self.address = ""
        self.pid = 0

    def __enter__(self) -> Self:
        try:
            self._start()
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def check(self) -> None:
        """Return while it lives.

        Raises:
            LocalServerError: it died; the message ends with its last lines.
        """
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            raise LocalServerError(f"the server ended with {_exit_text(code)}{self._last_lines()}")

    def peak_memory_bytes(self) -> int:
        """Return the most memory the front held so far; 0 where the system does not tell."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0

    def stop(self) -> None:
        """End it: SIGTERM, a bounded wait, SIGKILL. A no-op the second time; any thread may call it, also while
        another one waits for the start."""
        self._stopping.set()
        process = self._process
        try:
            if process is not None and process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_TIMEOUT)
        finally:
            self._kill_session()
            if process is not None:
                process.wait()
            self._remove_folder()

    def kill(self) -> None:
        """End it at once and wait for nothing; for the second Ctrl-C, from a signal handler inside `stop`."""
        self._kill_session()
        self._remove_folder()

    def _start(self) -> None:
        _remove_stale_folders()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _lock(self._folder)
        command = [
            *self._command,
            *("--listen", "127.0.0.1:0"),
            *("--metrics", "off"),
            "--no-spare",  # it would start while the first video is made
            *("--data-dir", str(self._folder / "data")),
            *("--ready-file", str(self._folder / "ready.json")),
            *self._arguments,
        ]
        with open(self._folder / "server.log", "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we stop it in good order
                pass_fds=(self._lock,),  # the folder is in use as long as either of us lives
                preexec_fn=_die_with_parent(),
            )

    def _wait_ready(self) -> None:
        assert self._folder is not None
        ready = self._folder / "ready.json"
        deadline = time.monotonic() + self._start_timeout
        while True:
            self.check()
            with suppress(FileNotFoundError, json.JSONDecodeError):  # not there yet, or half-written
                found = json.loads(ready.read_text())
                self.address, self.pid = str(found["listen"]), int(found["pid"])
                return
            if time.monotonic() > deadline:
                raise LocalServerError(f"the server was not ready after {self._start_timeout:g} s{self._last_lines()}")
            if self._stopping.wait(_POLL):
                raise LocalServerError("the server was stopped while it started")

    def _last_lines(self) -> str:
        if self._folder is None:
            return ""
        with suppress(OSError), open(self._folder / "server.log", "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 16_384))
            lines = log.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
            if len(lines) == 1:
                return f": {lines[0]}"
            if lines:
                return "; its last lines:\n" + "\n".join(f"  {line}" for line in lines)
        return ""

    def _kill_session(self) -> None:
        # An ended child that was waited for may have lent its number to somebody else.
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _lock(folder: Path) -> int:
    """Mark a folder as in use, and return the descriptor that keeps it so until the last copy of it is closed."""
    new = folder / f"{_LOCK}.new"
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(new, folder / _LOCK)  # it never has this name without being locked
    return lock


def _remove_stale_folders() -> None:
    """Remove what servers left whose clients were killed: folders with a lock that nobody holds."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):  # somebody else's, in use, or removed by somebody in the meantime
            if path.lstat().st_uid != os.getuid() or path.parent.is_symlink():
                continue
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(lock)


def _die_with_parent() -> Callable[[], None] | None:
    """Return what the child runs first: ask the kernel for SIGTERM when this process dies, however it dies."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: the child must not need locks
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # died in between
            os._exit(1)

    return prepare


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
