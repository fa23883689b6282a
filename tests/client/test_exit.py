"""A program ends when it ends, whatever it left open."""

import subprocess
import sys

import pytest

from vinf_client.testing import FakeServer

pytestmark = pytest.mark.process

BEGIN = """
import sys
from vinf_client import Client

client = Client(sys.argv[1], token="", tls=False)
handle = client.submit("a red ball", frames=30000)
"""

FRAMES = """
kept = [handle.frames()]
next(kept[0])
"""

THE_REST = """
puller, updates = handle.pull(latency="low"), handle.updates()
puller.next(), next(updates)
watched = handle.watch(lambda progress: None)
"""


@pytest.mark.parametrize(
    ("program", "code"),
    [(FRAMES, 0), (FRAMES, 3), (THE_REST, 0), (FRAMES + THE_REST, 3)],
    ids=["frames", "frames and a code", "the rest", "all"],
)
def test_what_is_open_does_not_hold_the_interpreter(program, code):
    # Fast enough that the threads are busy at that moment.
    with FakeServer(frame_rate=200) as server:
        command = [sys.executable, "-W", "error", "-c", f"{BEGIN}{program}sys.exit({code})", server.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
        assert server.wait_for_calls(0)
