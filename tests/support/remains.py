"""What a server must not leave behind."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")

_PASSING_S = 20.0
"""A segment of another program is without an owner for less than this, when it comes or goes."""


def remains_of(data_folder: Path) -> list[str]:
    """Name everything that a server with this data directory has left: processes and private folders.

    A process belongs to it when its environment or its command names the folder.
    """
    found = [f"process {process.pid}: {' '.join(_command(process))}" for process in _processes_of(data_folder)]
    if data_folder.exists():
        found += [f"folder {folder}" for folder in data_folder.glob("run-*")]
    return found


def opened_below(folder: Path) -> list[str]:
    """Names of the files in a folder that this process holds open, those that are removed already among them.

    Of the whole process there is no telling: libraries open and close files of their own at any time.
    """
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(descriptor))
    return [name for name in found if name.startswith(f"{folder}/")]


def shared_memory() -> frozenset[str]:
    """Names of the segments there are on this machine."""
    return frozenset(path.name for path in SHARED_MEMORY.iterdir()) if SHARED_MEMORY.is_dir() else frozenset()


def left_segments(before: frozenset[str]) -> set[str]:
    """New segments that nobody has mapped, and that do not go either: others may be about to map or remove theirs."""
    left = set(shared_memory() - before)
    deadline = time.monotonic() + _PASSING_S
    while True:
        left -= _in_use(left)
        left &= shared_memory()  # after the look at who uses what: that takes a while, and they may be gone by now
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)  # other processes' doings: nothing to wait on but the clock


def _in_use(names: set[str]) -> set[str]:
    """Those that a living process has mapped: they are somebody else's.

    Known by their inodes: whoever makes a semaphore maps it under another name, and gives it its own afterwards.
    """
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended meanwhile
            lines = [line.split(maxsplit=5) for line in maps.read_text().splitlines() if str(SHARED_MEMORY) in line]
            mapped |= {int(line[4]) for line in lines}
    return {name for name in names if _inode(SHARED_MEMORY / name) in mapped}


def _inode(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return None


def _processes_of(data_folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            texts = [*_command(process), *process.environ().values()]
            is_alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if is_alive and process.pid != os.getpid() and any(str(data_folder) in text for text in texts):
            found.append(process)
    return found


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
