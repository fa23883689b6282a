"""Real Gloo ranks for tests: four processes, started once, that run any module-level function as 1 to 4 ranks."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

POOL_SIZE = 4
CALL_TIMEOUT = 120.0
"""Seconds a call may take; far above what any takes, so that only a deadlock meets it."""


class RankPool:
    """Processes that stay in one group and run ``function(topology, groups, ...)`` together."""

    def __init__(self) -> None:
        # Copies of one process that has imported what they need: four imports would take most of a minute.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["vinf_core.engine.generator", "vinf_core.models.text_to_video"])
        self._folder = tempfile.TemporaryDirectory(prefix="vinf-ranks-")
        rendezvous = Path(self._folder.name) / "rendezvous"
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(POOL_SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, str(rendezvous), theirs), name=f"test-rank-{rank}", daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Run on ranks 0 to ``world_size`` - 1; return their results in rank order.

        Raises:
            AssertionError: a rank raised, died or did not answer in time; the message holds every traceback.
        """
        for pipe in self._pipes[:world_size]:
            pipe.send((world_size, function, args))
        results = []
        failures = []
        for rank, pipe in enumerate(self._pipes[:world_size]):
            if not pipe.poll(CALL_TIMEOUT):
                self.close()
                raise AssertionError(f"rank {rank} of {world_size} did not answer within {CALL_TIMEOUT:.0f} s")
            ok, value = pipe.recv()
            (results if ok else failures).append(value)
        if failures:
            raise AssertionError("\n".join(failures))
        return results

    def close(self) -> None:
        """End every process, whatever it does."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()


def _serve(rank: int, rendezvous: str, pipe: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import torch.distributed as dist

    from vinf_core.distributed.groups import GROUP_TIMEOUT, Groups
    from vinf_core.distributed.topology import Topology

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=POOL_SIZE, timeout=GROUP_TIMEOUT
    )
    groups = {
        size: Groups(
            control=dist.new_group(list(range(size)), backend="gloo"),
            data=dist.new_group(list(range(size)), backend="gloo"),
        )
        for size in range(1, POOL_SIZE + 1)
    }
    while True:
        try:
            size, function, args = pipe.recv()
        except EOFError:
            break
        topology = Topology(rank=rank, world_size=size, device=torch.device("cpu"))
        try:
            pipe.send((True, function(topology, groups[size], *args)))
        except Exception:
            pipe.send((False, f"rank {rank} of {size}:\n{traceback.format_exc()}"))
    os._exit(0)  # the peers may be gone already; a collective teardown could only hang
