"""Real ranks for a measurement: fresh processes that run one function together, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from benchmarks.settings import Settings

GOODBYE_SECONDS = 5.0
"""Longest a rank that has answered may take to end."""


class RankFailedError(RuntimeError):
    """A rank raised or died; the message holds its traceback."""


def run_ranks(ranks: int, settings: Settings, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Run ``function(topology, groups, settings, *args)`` on every rank; return the results in rank order.

    Args:
        ranks: processes in the world; with one there are no groups.
        settings: device and threads of a rank.
        function: of a module, as it crosses processes by name.
        args: what else it takes.

    Raises:
        RankFailedError: some rank failed; the others are ended.
    """
    # Forked ranks begin at once; CUDA does not survive a fork.
    on_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    context: Any = multiprocessing.get_context("forkserver" if on_cpu else "spawn")
    context.set_forkserver_preload(["benchmarks.subject", function.__module__])
    with tempfile.TemporaryDirectory(prefix="vinf-bench-") as folder:
        pipes: list[Connection] = []
        processes = []
        try:
            for rank in range(ranks):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_run_rank,
                    args=(rank, ranks, f"file://{Path(folder, 'rendezvous')}", theirs, settings, function, args),
                    daemon=True,
                )
                process.start()
                theirs.close()
                pipes.append(ours)
                processes.append(process)
            results = _collect(pipes)
            for process in processes:
                process.join(GOODBYE_SECONDS)
            return results
        finally:
            # After an error a rank's peers may wait for it for minutes.
            for process in processes:
                process.kill()
                process.join()


def _collect(pipes: list[Connection]) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        for pipe in wait([p for i, p in enumerate(pipes) if i not in results]):
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                good, value = pipes[rank].recv()
            except EOFError:
                raise RankFailedError(f"rank {rank} of {len(pipes)} died without a word") from None
            if not good:
                raise RankFailedError(f"rank {rank} of {len(pipes)} failed:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _run_rank(
    rank: int,
    ranks: int,
    rendezvous: str,
    pipe: Connection,
    settings: Settings,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent ends us
    try:
        from benchmarks.subject import ALONE
        from vinf_core.distributed.groups import process_groups
        from vinf_core.distributed.topology import Topology

        topology = Topology(rank=rank, world_size=ranks, device=prepare_device(settings, rank, ranks))
        if ranks == 1:
            answer = function(topology, ALONE, settings, *args)
        else:
            with process_groups(topology, rendezvous) as groups:
                answer = function(topology, groups, settings, *args)
        pipe.send((True, answer))
    except Exception:
        pipe.send((False, traceback.format_exc()))
        pipe.close()
        os._exit(1)  # no collective after an error


def prepare_device(settings: Settings, rank: int = 0, ranks: int = 1) -> Any:
    """Choose this process's device and set its threads.

    Raises:
        ConfigError: more ranks than CUDA devices.
    """
    from vinf_core.distributed.topology import select_device

    device = select_device(settings.device, rank, ranks)
    torch.set_num_threads(settings.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
