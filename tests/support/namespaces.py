"""Two hosts on one machine: network namespaces, a cable between them that can be cut, and one from the test to each."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import pytest

Cut = Literal["pulled", "silent"]

_counter = itertools.count()


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Two namespaces, `first` and `second`, with their addresses on the cable between them."""

    first: str
    second: str
    first_address: str
    second_address: str
    control_address: str
    """Where the test itself reaches the first one, on a cable of its own."""

    def cut(self, how: Cut) -> None:
        """Pull the cable, which both sides can see; or lose every packet on it, which neither can."""
        if how == "pulled":
            _ip("-n", self.first, "link", "set", "cable", "down")
            return
        for name, other in self._ends():
            # A card drops what is not addressed to it.
            wrong = ("lladdr", "02:00:00:00:00:01", "nud", "permanent")
            _ip("-n", name, "neigh", "replace", other, *wrong, "dev", "cable")

    def mend(self, how: Cut) -> None:
        """Undo `cut`."""
        if how == "pulled":
            _ip("-n", self.first, "link", "set", "cable", "up")
            return
        for name, other in self._ends():
            _ip("-n", name, "neigh", "del", other, "dev", "cable")

    def _ends(self) -> tuple[tuple[str, str], ...]:
        return (self.first, self.second_address), (self.second, self.first_address)

    def pids(self) -> list[int]:
        """Processes in either of them."""
        found = [_ip("netns", "pids", name).split() for name in (self.first, self.second)]
        return [int(pid) for pid in itertools.chain(*found)]


@contextmanager
def two_namespaces() -> Iterator[Namespaces]:
    """Make them; skip the test where that is not permitted; afterwards nothing is left of them."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip")
    number = f"{os.getpid()}-{next(_counter)}"
    first, second, outside = f"vinf-a-{number}", f"vinf-b-{number}", f"v{number}"[-15:]
    net = f"10.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
    made = Namespaces(first, second, f"{net}.1", f"{net}.2", f"{net}.130")
    try:
        try:
            _ip("netns", "add", first)
            _ip("netns", "add", second)
            _ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
        _ip("link", "add", outside, "type", "veth", "peer", "name", "control", "netns", first)
        _ip("addr", "add", f"{net}.129/25", "dev", outside)
        _ip("link", "set", outside, "up")
        for name, interface, address in ((first, "cable", 1), (second, "cable", 2), (first, "control", 130)):
            _ip("-n", name, "addr", "add", f"{net}.{address}/25", "dev", interface)
            _ip("-n", name, "link", "set", interface, "up")
        for name in (first, second):
            _ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        for name in (first, second):
            left = subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=False, timeout=20
            )
            for pid in left.stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=20)
        subprocess.run(["ip", "link", "del", outside], capture_output=True, check=False, timeout=20)


def wait_until_empty(namespaces: Namespaces, *, timeout_s: float) -> None:
    """Return when no process is left in either; AssertionError when one stays."""
    deadline = time.monotonic() + timeout_s
    while pids := namespaces.pids():
        assert time.monotonic() < deadline, f"processes were left behind: {pids}"
        time.sleep(0.05)  # other processes' ends: nothing to wait on but the clock


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout
