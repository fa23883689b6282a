"""A rank that writes down what it was started with, and leaves: ``python -m tests.support.telling_rank``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

FOLDER = "VINF_TEST_TOLD"
"""Variable of the environment with the folder to write to."""

if __name__ == "__main__":
    told = {
        "rank": int(os.environ["RANK"]),
        "world_size": int(os.environ["WORLD_SIZE"]),
        "leads its session": os.getsid(0) == os.getpid(),
        "has the rank already": "vinf_server.rank.main" in sys.modules,
    }
    Path(os.environ[FOLDER], os.environ["RANK"]).write_text(json.dumps(told))
