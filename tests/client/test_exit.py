"""A program ends when it ends, whatever it left open."""

import subprocess
import sys

import pytest

from vinf_client.testing import FakeServer

pytestmark = pytest.mark.process

PROGRAM = """
import sys
from vinf_client import Client

client = Client(sys.argv[1], token="", tls=False)
handle = client.submit("a red ball", frames=3000)
frames, puller, updates = handle.frames(), handle.pull(latency="low"), handle.updates()
next(frames), puller.next(), next(updates)
watched = handle.watch(lambda progress: None)
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("code", [0, 3])
def test_what_is_open_does_not_hold_the_interpreter(code):
    with FakeServer(frame_rate=20) as server:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, server.address, str(code)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
        assert server.wait_for_calls(0)
