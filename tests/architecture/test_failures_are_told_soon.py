"""A test that fails says so at once, also where it compares videos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]

FAILING = """
import random
import pytest

@pytest.mark.fast
def test_of_two_videos():
    frames = [random.Random(index).randbytes(64 * 64 * 3) for index in range(4)]
    assert frames == frames[::-1]
"""


def test_videos_that_differ_are_no_matter_of_minutes(tmp_path):
    """Where CI is set, and with -v, pytest would align them byte by byte."""
    (tmp_path / "test_it.py").write_text(FAILING)
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    command = [sys.executable, "-m", "pytest", "-vv", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(
        command, env={"CI": "true", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "At index 0 diff" in done.stdout
    assert len(done.stdout) < 20_000
