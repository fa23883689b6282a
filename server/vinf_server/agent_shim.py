"""torchrun, tied to the life of the front that started it.

The elastic agent has a session of its own, so a Ctrl-C does not reach it; in exchange the kernel kills it the moment
the front dies, however that happens. Not part of `vinf_server.front`: this process imports torch, the front never does.

Where ranks may be forked, they are, by Python's fork server: one process imports what ranks need, once, and each rank
is a copy of it that begins at once. CUDA does not survive a fork, so ranks on GPUs are processes from nothing.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import multiprocessing
import os
import signal
import sys
import tempfile
from multiprocessing import forkserver

PRELOAD = "vinf_server.rank.preload"

LOG_FORMAT = "%(levelname)s %(asctime)s %(name)s: %(message)s"
"""Torch's own formatter imports its compiler to print a traceback: seconds, in which nobody hears of a lost rank."""

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL at the parent's death; exit when that happened before we could ask."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)


def prepare_ranks(start_method: str, folder: str) -> None:
    """Have what ranks need imported before they are wanted, where ranks can be forked from it.

    The fork server's socket lies in the folder, which whoever ends this process removes.
    """
    if start_method == "forkserver":
        # However long the folder's path is, this one is short enough for a socket.
        tempfile.tempdir = f"/proc/self/fd/{os.open(folder, os.O_RDONLY | os.O_DIRECTORY)}"
        multiprocessing.set_forkserver_preload([PRELOAD])
        forkserver.ensure_running()


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
    """Run torchrun with all arguments but the first two, the front's pid and a folder for sockets.

    ``--spare METHOD`` instead of torchrun's arguments: import everything, and wait for a launch on the standard input.
    """
    die_with_parent(int(argv[0]))
    # Else the collector walks all that torch has imported once more at the end, for a second or two.
    atexit.register(gc.freeze)
    os.environ["TORCH_LOGS_FORMAT"] = LOG_FORMAT
    folder, arguments = argv[1], argv[2:]
    is_spare = arguments[0] == "--spare"
    # First of all: it imports what ranks need while this process imports what torchrun needs.
    prepare_ranks(arguments[1] if is_spare else arguments[arguments.index("--start-method") + 1], folder)
    # What runs here is torchrun, but for the entry point, which is a function.
    from torch.distributed.elastic.multiprocessing.errors import record  # noqa: TID251
    from torch.distributed.launcher.api import elastic_launch  # noqa: TID251
    from torch.distributed.run import config_from_args, parse_args  # noqa: TID251

    from vinf_server.rank.start import start_rank

    if is_spare:
        line = sys.stdin.readline()
        if not line.endswith("\n"):
            return  # the front has no use for it any more
        arguments = take_launch(line)
    options = parse_args(arguments)
    config, _, _ = config_from_args(options)
    # A fork server that was started beforehand knows nothing of this launch's environment.
    record(elastic_launch(config, entrypoint=start_rank))(options.training_script, dict(os.environ))


if __name__ == "__main__":
    main(sys.argv[1:])
