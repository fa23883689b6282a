"""What a command writes into a pipe that nobody reads any more."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process


@pytest.mark.parametrize("arguments", ["token alice", "completion bash", "--help"])
def test_a_reader_that_has_gone_is_no_traceback(arguments):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vinf_client.cli", *arguments.split()],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
