"""How ranks come to be: as copies of one process that has imported everything."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

LOOK = """
import json, os, signal, sys, threading
import vinf_server.rank.preload
import torch
print(json.dumps({
    "threads": len(os.listdir("/proc/self/task")),
    "has the rank": "vinf_server.rank.main" in sys.modules,
    "cuda": torch.cuda.is_initialized(),
    "leads its session": os.getsid(0) == os.getpid(),
    "ignores": signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN,
}))
"""


def test_what_ranks_are_copied_from_has_one_thread_and_no_cuda() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=120, start_new_session=False, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        '{"threads": 1, "has the rank": true, "cuda": false, "leads its session": true, "ignores": true}'
    )
