"""The examples do what they say, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import av
import pytest

from vinf_client.testing import FakeServer

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def fake_server():
    with FakeServer() as server:
        yield server


def run_example(name, *arguments, server, folder):
    environment = {**os.environ, "VINF_SERVER": server, "XDG_CONFIG_HOME": str(folder)}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("kind", ["fake", "real"])
def test_saving_a_video(kind, request, tmp_path):
    server = request.getfixturevalue(f"{kind}_server").address
    done = run_example("save_video.py", "a red ball", "ball.mp4", server=server, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "48 frames of 64x64 to ball.mp4\n"
    with av.open(str(tmp_path / "ball.mp4")) as file:
        assert len(list(file.decode(video=0))) == 48


def test_without_a_server_it_says_so(tmp_path):
    done = run_example("save_video.py", "a red ball", "ball.mp4", server="127.0.0.1:1", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "save_video: cannot reach a vinf server at 127.0.0.1:1: connection refused\n"
    assert list(tmp_path.iterdir()) == []


def test_it_is_short():
    assert len((EXAMPLES / "save_video.py").read_text().splitlines()) <= 20
