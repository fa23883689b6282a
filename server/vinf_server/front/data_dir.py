"""The folder a front owns while it runs: generations, spool, checkpoints, logs, the engine link's private socket."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

_MAX_SOCKET_PATH_BYTES = 100
"""sockaddr_un holds 107 bytes and a terminator; the rest is slack."""

_KEPT_LOG_FOLDERS = 10
"""Launches whose logs are kept: more than the front makes before it gives up."""


_DATABASE = "vinf.db"
_OWN_NAMES = frozenset({"lock", "spool", "logs", "checkpoints", "join-token"})
_PRIVATE_NAME = re.compile(r"run-[a-z0-9_]{8}")
"""As `tempfile.mkdtemp` makes them."""
_LOGS_NAME = re.compile(r"\d{8}T\d{6}Z-\d+-epoch\d+")


class DataDirError(Exception):
    """The data directory cannot be used; the message says why."""


class DataDir:
    """A data directory, locked against a second front."""

    def __init__(self, root: Path) -> None:
        """Lock the folder and clear what was private to an earlier run; what it stored stays."""
        self.root = root.expanduser().absolute()
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_ours()
            self._lock = self._take_lock()
            self.spool = self.root / "spool"
            self.logs = self.root / "logs"
            self.checkpoints = self.root / "checkpoints"
            self.database = self.root / _DATABASE
            for stale in self.root.iterdir():
                if _PRIVATE_NAME.fullmatch(stale.name):
                    shutil.rmtree(stale, ignore_errors=True)
            self.spool.mkdir(mode=0o700, exist_ok=True)
            self.checkpoints.mkdir(mode=0o700, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            self.private = self._make_private_folder()
        except OSError as error:
            raise DataDirError(f"{self.root} cannot be used: {error.strerror or error}") from error

    @property
    def socket(self) -> Path:
        """Where the ranks reach the front."""
        return self.private / "engine.sock"

    def new_log_folder(self, epoch: int) -> Path:
        """Make the folder for the logs of one launch and forget the oldest ones."""
        folder = self.logs / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}-epoch{epoch}"
        folder.mkdir(parents=True, exist_ok=True)
        ours = (path for path in self.logs.iterdir() if _LOGS_NAME.fullmatch(path.name))
        kept = sorted(ours, key=lambda path: path.stat().st_mtime)
        for old in kept[:-_KEPT_LOG_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def close(self) -> None:
        """Remove the private folder and let the lock go."""
        shutil.rmtree(self.private, ignore_errors=True)
        os.close(self._lock)

    def _check_ours(self) -> None:
        """Refuse a folder that somebody else keeps things in, and frames that nobody can name any more.

        Raises:
            DataDirError: with what to do.
        """
        names = {path.name for path in self.root.iterdir()}
        if _DATABASE in names:
            return
        foreign = sorted(name for name in names if name not in _OWN_NAMES and not _PRIVATE_NAME.fullmatch(name))
        if foreign or (names and "lock" not in names):
            raise DataDirError(
                f"{self.root} is not empty and no data directory of vinf (it holds {(foreign or sorted(names))[0]!r}); "
                "choose a new or an empty folder"
            )
        for kept in ("spool", "checkpoints"):
            folder = self.root / kept
            if folder.is_dir() and any(folder.iterdir()):
                raise DataDirError(
                    f"{folder} holds frames or checkpoints, but the database {_DATABASE} that names them is gone; "
                    "put it back, or remove the folder to begin anew"
                )

    def _take_lock(self) -> int:
        lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise DataDirError(f"{self.root} is in use by another server (pid {owner})") from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def _make_private_folder(self) -> Path:
        """A folder of mode 0700 under a name no earlier run had, short enough for a socket."""
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.root))
        if len(os.fsencode(folder / "engine.sock")) > _MAX_SOCKET_PATH_BYTES:
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="vinf-"))
        return folder
