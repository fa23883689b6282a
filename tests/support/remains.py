"""What a server must not leave behind."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")


def remains_of(data_folder: Path) -> list[str]:
    """Name everything that a server with this data directory has left: processes and private folders.

    A process belongs to it when its environment or its command names the folder.
    """
    found = [f"process {process.pid}: {' '.join(_command(process))}" for process in _processes_of(data_folder)]
    if data_folder.exists():
        found += [f"folder {folder}" for folder in data_folder.glob("run-*")]
    return found


def shared_memory() -> set[str]:
    """Names of the segments that torch or a server may have made; those of other servers included."""
    names = (path.name for path in SHARED_MEMORY.iterdir()) if SHARED_MEMORY.exists() else ()
    return {name for name in names if name.startswith(("torch_", "vinf", "sem.mp-"))}


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
