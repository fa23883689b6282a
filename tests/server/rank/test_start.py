"""How ranks come to be: as copies of one process that has imported everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import telling_rank

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
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        '{"threads": 1, "has the rank": true, "cuda": false, "leads its session": true, "ignores": true}'
    )


@pytest.mark.parametrize(("method", "is_spare"), [("forkserver", False), ("forkserver", True), ("spawn", False)])
def test_ranks_get_the_environment_of_their_launch_and_may_leave(method: str, is_spare: bool, tmp_path: Path) -> None:
    """As on CPUs and as on GPUs; a spare agent hears of its launch when everything is imported."""
    told = tmp_path / "told"
    told.mkdir()
    (tmp_path / "sockets").mkdir()
    environment = {**os.environ, telling_rank.FOLDER: str(told)}
    arguments = [
        *("--nnodes", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", "vinf-1"),
        *("--nproc-per-node", "2", "--max-restarts", "0", "--start-method", method),
        *("--log-dir", str(tmp_path / "logs"), "--redirects", "3", "-m", telling_rank.__name__),
    ]
    order = {"arguments": arguments, "environment": environment, "log": str(tmp_path / "agent.log")}
    shim = [sys.executable, "-m", "vinf_server.agent_shim", str(os.getpid()), str(tmp_path / "sockets")]
    done = subprocess.run(
        [*shim, "--spare", method] if is_spare else [*shim, *arguments],
        input=json.dumps(order) + "\n" if is_spare else "",
        env=dict(os.environ) if is_spare else environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads((told / str(rank)).read_text()) for rank in range(2)]
    is_copy = method == "forkserver"
    assert found == [
        {"rank": rank, "world_size": 2, "leads its session": True, "has the rank already": is_copy} for rank in range(2)
    ]


def test_a_rank_writes_what_it_was_told_to_also_when_it_fails() -> None:
    """Without the rest of its environment it cannot start; the epoch and the rank are on the line all the same."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VINF_")}
    told = {"VINF_LOG_FORMAT": "json", "VINF_EPOCH": "4", "RANK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "vinf_server.rank"],
        env=environment | told,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["source"], line["rank"], line["epoch"], line["level"]) == ("rank", 1, 4, "ERROR")
    assert line["message"] == "the rank fails"
    assert line["exception"].endswith("WORLD_SIZE is not set: ranks are started by `vinf serve`")
