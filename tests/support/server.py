"""A real `vinf serve` with real ranks, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]

START_TIMEOUT = 120.0
"""Seconds until the group must be ready; a loaded two-core machine needs about 15."""


class Server:
    """`vinf serve` on free ports; stop it with `stop`, which checks that no process is left behind."""

    def __init__(self, folder: Path, *arguments: str, prefix: tuple[str, ...] = (), spare: bool = False) -> None:
        """Start it and wait until it is ready.

        Args:
            folder: for its data, its log and its ready file.
            arguments: of `vinf serve`.
            prefix: a command that runs another one in its place, such as ``nice``.
            spare: whether it keeps a spare agent, which is much to start for a test that loses no rank.
        """
        self.folder = folder
        self.log = folder / "serve.log"
        ready_file = folder / "ready.json"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *prefix,
                    *(sys.executable, "-m", "vinf_client.cli", "serve"),
                    *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"),
                    *("--data-dir", str(folder / "data"), "--ready-file", str(ready_file)),
                    *(() if spare else ("--no-spare",)),
                    *arguments,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )
        self._family: list[psutil.Process] = []
        deadline = time.monotonic() + START_TIMEOUT
        while not ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"the server did not become ready:\n{self.log.read_text()}")
            time.sleep(0.05)  # another process's file: nothing to wait on but the clock
        ready = json.loads(ready_file.read_text())
        self.address: str = ready["listen"]
        self.metrics_url = f"http://{ready['metrics']}/metrics"
        self.note_family()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def note_family(self) -> list[psutil.Process]:
        """Remember every process of the server, so that `stop` can look for them."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        self._family += [process for process in family if process not in self._family]
        return family

    def logs(self) -> list[Path]:
        """The folders with the logs of its launches."""
        return list((self.folder / "data" / "logs").iterdir())

    def vinf(self, *arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a client command against the server."""
        return run_vinf(*arguments, "--server", self.address, expect=expect)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask the server to end; return its exit code.

        Raises:
            AssertionError: it took too long, or a process outlived it.
        """
        if self.process.poll() is None:
            self.note_family()
            self.process.send_signal(how)
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the server did not stop within 30 s:\n{self.log.read_text()}") from None
        _, alive = psutil.wait_procs(self._family, timeout=20)
        for process in alive:
            process.kill()
        assert not alive, f"processes outlived the server: {alive}"
        return code


def run_vinf(*arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run the `vinf` command; check its exit code unless ``expect`` is None."""
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, "-m", "vinf_client.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=170,
        env=environment,
        check=False,
    )
    if expect is not None:
        assert done.returncode == expect, f"vinf {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}"
    return done
