"""Where a rank begins: what torchrun calls in a process of its own, forked or new."""

from __future__ import annotations

import os
import runpy
from collections.abc import Mapping
from multiprocessing.util import Finalize

from vinf_server.rank.lifeline import die_with_parent


def start_rank(module: str, environment: Mapping[str, str]) -> None:
    """Run a rank to its end.

    Args:
        module: what to run, as ``python -m`` does.
        environment: of the agent; a fork server may have been started with another one.
    """
    die_with_parent()
    # A signal for the agent and its session is the agent's to pass on.
    os.setsid()
    os.environ.update(environment)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    # Only a rank that was told to leave comes here. torchrun hears of it first; then nothing is waited for.
    Finalize(None, os._exit, args=(0,), exitpriority=1000)
