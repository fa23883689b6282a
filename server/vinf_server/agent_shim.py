"""torchrun, tied to the life of the front that started it.

The elastic agent has a session of its own, so a Ctrl-C does not reach it; in exchange the kernel kills it the moment
the front dies, however that happens. Not part of `vinf_server.front`: this process imports torch, the front never does.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL at the parent's death; exit when that happened before we could ask."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)


def take_launch(line: str) -> list[str]:
    """Become the agent of a launch that the front has written as one line of JSON; return torchrun's arguments."""
    launch = json.loads(line)
    os.environ.clear()
    os.environ.update(launch["environment"])
    log = os.open(launch["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    arguments: list[str] = launch["arguments"]
    return arguments


def main(argv: list[str]) -> None:
    """Run torchrun with all arguments but the first, which is the pid of the front.

    ``--spare`` instead of torchrun's arguments: import torch, and wait for a launch on the standard input.
    """
    die_with_parent(int(argv[0]))
    from torch.distributed.run import main as torchrun  # noqa: TID251  # only this process pays for torch

    arguments = argv[1:]
    if arguments == ["--spare"]:
        line = sys.stdin.readline()
        if not line.endswith("\n"):
            return  # the front has no use for it any more
        arguments = take_launch(line)
    torchrun(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
