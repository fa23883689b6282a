"""The scripted rank with a model for large pictures; a frame takes it VINF_TEST_FRAME_INTERVAL_S seconds.

While the file VINF_TEST_HELD_FROM exists, the frame whose index is in it is not made, nor any behind it. The rank beats
on meanwhile: it is not taken for one that hangs, however long the test takes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.server import fake_rank
from tests.server.fakes import frame_bytes, model_limits


def large_limits():
    return model_limits(max_width=1920, max_height=1080, size_multiple=8)


def is_held(index: int) -> bool:
    try:
        return index >= int(Path(os.environ["VINF_TEST_HELD_FROM"]).read_text())
    except FileNotFoundError:
        return False


def frame_in_time(seed: int, index: int, size: int) -> bytes:
    time.sleep(float(os.environ.get("VINF_TEST_FRAME_INTERVAL_S", "0")))
    while is_held(index):
        time.sleep(0.01)
    return frame_bytes(seed, index, size)


fake_rank.model_limits = large_limits
fake_rank.frame_bytes = frame_in_time

if __name__ == "__main__":
    fake_rank.main()
