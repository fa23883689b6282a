"""The scripted rank with a model for large pictures; a frame takes it VINF_TEST_FRAME_INTERVAL_S seconds."""

from __future__ import annotations

import os
import time

from tests.server import fake_rank
from tests.server.fakes import frame_bytes, model_limits


def large_limits():
    return model_limits(max_width=1920, max_height=1080, size_multiple=8)


def frame_in_time(seed: int, index: int, size: int) -> bytes:
    time.sleep(float(os.environ.get("VINF_TEST_FRAME_INTERVAL_S", "0")))
    return frame_bytes(seed, index, size)


fake_rank.model_limits = large_limits
fake_rank.frame_bytes = frame_in_time

if __name__ == "__main__":
    fake_rank.main()
