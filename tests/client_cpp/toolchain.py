"""Where the C++ client's tests get a compiler and its libraries from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "client" / "cpp"

BUILD = (
    *("g++", "cmake", "ninja-build", "pkg-config", "libgrpc++-dev", "libprotobuf-dev"),
    *("protobuf-compiler", "protobuf-compiler-grpc"),
)
"""Debian's packages that the library itself needs."""

VIEWER = ("libsdl2-dev", "xvfb")
CLANG = ("clang",)

_failed: set[str] = set()


def need(packages: tuple[str, ...]) -> None:
    """Install packages where that is possible, or skip the test with the line that would."""
    failure = try_to_install(packages)
    if failure:
        pytest.skip(f"the C++ client is not tested without: {failure}")


def try_to_install(packages: tuple[str, ...]) -> str:
    """Install what is missing, once; returns the line that would have done it where it cannot be done."""
    missing = [package for package in packages if not _is_installed(package)]
    if not missing:
        return ""
    line = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if line in _failed or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return line
    print(f"tests/client_cpp: {line}", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", *missing)):
        done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            _failed.add(line)
            return line
    return ""


def _is_installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    done = subprocess.run(["dpkg-query", "-W", "-f=${Status}", package], capture_output=True, text=True, check=False)
    return "ok installed" in done.stdout


def run(*command: object, timeout: float = 60, **options: object) -> str:
    """Run a tool that must succeed; returns what it printed."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done.stdout
