"""What is left behind is told from what somebody else still uses."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest

from tests.support import remains

_KILLED_WITH_A_LOCK = """
import multiprocessing, os
from multiprocessing import resource_tracker
lock = multiprocessing.get_context("spawn").Lock()
tracker = resource_tracker._resource_tracker._pid
print(os.path.basename(lock._semlock.name), flush=True)
os.kill(tracker, 9)  # else it would remove the lock
os.kill(os.getpid(), 9)
"""


@pytest.mark.process
def test_semaphores_of_the_living_and_of_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remains, "_PASSING_S", 0.0)
    before = remains.shared_memory()
    ours = multiprocessing.get_context("spawn").Lock()
    dead = subprocess.run([sys.executable, "-c", _KILLED_WITH_A_LOCK], stdout=subprocess.PIPE, text=True, check=False)
    name = f"sem.{dead.stdout.strip()}"
    try:
        left = remains.left_segments(before)
        assert name in left, "whoever made it is dead"
        mapped = f"sem.{os.path.basename(ours._semlock.name)}"  # type: ignore[attr-defined]
        assert mapped in remains.shared_memory() - left, "it is mapped by this process"
    finally:
        (remains.SHARED_MEMORY / name).unlink(missing_ok=True)
