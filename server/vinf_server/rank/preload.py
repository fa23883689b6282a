"""What ranks need, imported by the fork server that they are copies of."""

import gc
import os
import signal

from vinf_server.rank.lifeline import die_with_parent

die_with_parent()

# Its ranks have sessions of their own, too: a signal for the agent's session ends the agent, and that ends it.
os.setsid()

# The front asks ranks for their stacks by it; it is not for this process.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

import torch.distributed.elastic.multiprocessing.api  # noqa: E402, F401, TID251

import vinf_core.models.text_to_video  # noqa: E402, F401  # what most models are loaded with
import vinf_server.rank.main  # noqa: E402, F401

# Pages that the collector does not touch stay shared with every rank.
gc.collect()
gc.freeze()
