"""One group on two hosts: network namespaces with a cable between them, which is cut in the middle of a generation."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import psutil
import pytest

from tests.support.namespaces import Cut, two_namespaces, wait_until_empty
from tests.support.server import Server
from vinf_client import Client, GenerationHandle, Progress

pytestmark = pytest.mark.process

PROMPT = "a red ball bouncing over the sea"
FRAME_BYTES = 64 * 64 * 3

WORKER = """
hostname second
mount -t tmpfs nothing "$HIDDEN"
exec "$PYTHON" -m vinf_server.worker "$@"
"""
"""Run with a host name and a view of the disk of its own, where the first host's folder is empty."""


class Worker:
    """`vinf worker` on the second host."""

    def __init__(self, folder: Path, namespace: str, hidden: Path, *arguments: str) -> None:
        self.log = folder / "worker.log"
        environment = {
            **os.environ,
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "HIDDEN": str(hidden),
            "PYTHON": sys.executable,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", namespace, "unshare", "--uts", "--mount"),
                    *("sh", "-e", "-c", WORKER, "worker", *arguments),
                ],
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def family(self) -> list[psutil.Process]:
        """The worker, its agent and its ranks."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def until(condition: Callable[[], object], what: str, *, timeout_s: float = 60) -> None:
    """Wait for something in other processes, where there is nothing to wait on but the clock."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def wait_for_step(handle: GenerationHandle, step: int) -> None:
    reached = threading.Event()

    def look(progress: Progress) -> None:
        if progress.completed_step_count >= step:
            reached.set()

    handle.watch(look)
    assert reached.wait(60), f"step {step} was not reached: {handle.progress}"


def frame_bytes_by_peer(server: Server) -> dict[str, float]:
    page = urllib.request.urlopen(server.metrics_url, timeout=10).read().decode()
    lines = [line for line in page.splitlines() if line.startswith("vinf_link_frame_bytes_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def assert_sees_nothing_of(folder: Path, worker: Worker) -> None:
    for process in worker.family():
        paths = [file.path for file in process.open_files()] + [process.cwd(), *process.cmdline()]
        paths += [value for name, value in process.environ().items() if name != "HIDDEN"]
        assert not [path for path in paths if str(folder) in path], f"{process} knows of the first host's folder"
    assert not list(Path(f"/proc/{worker.process.pid}/root{folder}").iterdir())


@pytest.mark.timeout(600)
def test_a_generation_across_two_hosts_outlives_a_cut_cable(tmp_path: Path) -> None:
    """The second host sees no file of the first; frames come over TCP; after the cut they are the same to the bit."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    token = "a token for this test alone"[::-1].replace(" ", "-")
    for path in (tmp_path / "first-token", second / "token"):
        path.write_text(token + "\n")
        path.chmod(0o600)
    wanted = {"frames": 24, "seed": 2, "steps": 30}
    with two_namespaces() as hosts:
        link = f"{hosts.first_address}:50052"
        arguments = ("--join", link, "--join-token-file", str(second / "token"), "--insecure", "--ranks", "1")
        worker = Worker(second, hosts.second, first, *arguments, "--device", "cpu")
        until(lambda: "cannot join the server" in worker.log.read_text(), "a try before there is a server")
        with (
            Server(
                first,
                *("--nnodes", "2", "--link", link, "--join-token-file", str(tmp_path / "first-token"), "--insecure"),
                *("--listen", f"{hosts.control_address}:0", "--metrics", f"{hosts.control_address}:0"),
                *("--ranks", "1", "--device", "cpu", "--rank-weights", "even"),
                prefix=("ip", "netns", "exec", hosts.first),
            ) as server,
            Client(server.address) as client,
        ):
            assert {rank.host for rank in client.info().ranks} == {socket.gethostname(), "second"}

            undisturbed = np.stack(list(client.submit(PROMPT, **wanted).frames()))
            half = 12 * FRAME_BYTES
            assert frame_bytes_by_peer(server) == {"unix": half, hosts.second_address: half}

            for cut_count, how in enumerate(get_args(Cut), start=1):
                handle = client.submit(PROMPT, **wanted)
                seen: list[np.ndarray] = []
                reader = threading.Thread(target=lambda h, s: s.extend(h.frames()), args=(handle, seen))
                reader.start()
                wait_for_step(handle, 3)
                assert_sees_nothing_of(first, worker)
                hosts.cut(how)
                cut_time = time.monotonic()
                until(lambda: not client.info().ready, "readiness red")
                red_time = time.monotonic()
                until(lambda: len(worker.family()) == 1, "the second host's ranks are gone")
                lines = cut_count + 1  # the first one is from the start
                until(lambda n=lines: server.log.read_text().count("waiting for hosts: 1 of 2") == n, "the front waits")
                assert not seen, "the cut came too late"
                hosts.mend(how)
                mend_time = time.monotonic()
                reader.join(120)
                end_time = time.monotonic()
                assert not reader.is_alive(), f"no end of the stream: {handle.progress}\n{server.log.read_text()}"
                np.testing.assert_array_equal(np.stack(seen), undisturbed)
                print(
                    f"{how}: red {red_time - cut_time:.1f} s after the cut, "
                    f"all frames {end_time - mend_time:.1f} s after it was mended"
                )
            log = server.log.read_text()
            assert log.count("goes on after step") == len(get_args(Cut))
            assert token not in log + worker.log.read_text()
            assert server.stop() == 0
        assert worker.stop() == 0, worker.log.read_text()
        wait_until_empty(hosts, timeout_s=10)
