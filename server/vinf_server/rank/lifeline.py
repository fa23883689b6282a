"""A rank dies with the agent that started it."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; leave at once if it is dead already.

    Without the second half a parent that died between fork and the call would leave an orphan.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1 and os.getpid() != 1 and os.environ.get("TORCHELASTIC_RUN_ID"):
        os._exit(1)
