"""Debian's real Prometheus, for tests and for the pictures of the dashboard."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOYED = ROOT / "deploy/prometheus"

START_TIMEOUT = 30.0
"""Seconds; it needs a quarter of one on a quiet machine."""


def is_installed() -> bool:
    """Whether Prometheus and its tool can be started."""
    return shutil.which("prometheus") is not None and shutil.which("promtool") is not None


class QueryError(Exception):
    """Prometheus refused an expression."""


@dataclass(frozen=True, slots=True)
class Series:
    """Labels, and values at times in seconds; what is no number (0 / 0) is left out."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


class Prometheus:
    """The deployed configuration and rules, with other targets and a quicker pace.

    Args:
        folder: for its configuration, its data and its log.
        targets: addresses to scrape, by job; they take the place of the deployed ones.
        interval: seconds between two scrapes, and between two evaluations of the rules.
    """

    def __init__(self, folder: Path, targets: dict[str, str], *, interval: float) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "prometheus.log"
        configuration = folder / "prometheus.yml"
        configuration.write_text(yaml.safe_dump(_configuration(targets, interval)))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'series'}"),
                    *(f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=1d"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; return when it has ended."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)

    def query(self, expr: str, *, at: float | None = None) -> list[Series]:
        """Evaluate an expression at one time, now by default.

        Raises:
            QueryError: it cannot be parsed or evaluated.
        """
        answer = self.get("query", {"query": expr, **({"time": f"{at:.3f}"} if at is not None else {})})
        if answer["resultType"] == "scalar":
            return [_series({"metric": {}, "values": [answer["result"]]})]
        return [_series({"metric": one["metric"], "values": [one["value"]]}) for one in answer["result"]]

    def query_range(self, expr: str, start: float, end: float, *, step: float) -> list[Series]:
        """Evaluate an expression every ``step`` seconds.

        Raises:
            QueryError: it cannot be parsed or evaluated.
        """
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return [_series(one) for one in self.get("query_range", {"query": expr, **times})["result"]]

    def get(self, what: str, parameters: dict[str, str] | None = None) -> Any:
        """Ask the HTTP API, and return the data of its answer.

        Raises:
            QueryError: it says no.
        """
        body = urllib.parse.urlencode(parameters).encode() if parameters else None
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{what}", data=body, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise QueryError(json.load(error).get("error", str(error))) from None

    def wait_for(self, expr: str, *, timeout: float) -> None:
        """Return once an expression has a result.

        Raises:
            AssertionError: it has none within so many seconds.
        """
        deadline = time.monotonic() + timeout
        while not self.query(expr):
            assert time.monotonic() < deadline, f"nothing within {timeout:g} s: {expr}\n{self._log.read_text()[-2000:]}"
            time.sleep(0.1)  # another program's data: nothing to wait on but the clock

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"Prometheus did not become ready:\n{self._log.read_text()}") from None
            time.sleep(0.05)  # another program: nothing to wait on but the clock


def _configuration(targets: dict[str, str], interval: float) -> dict[str, Any]:
    pace = f"{round(interval * 1000)}ms"
    deployed: dict[str, Any] = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in deployed["scrape_configs"]}
    deployed["global"] = {"scrape_interval": pace, "scrape_timeout": pace, "evaluation_interval": pace}
    deployed["rule_files"] = [str(DEPLOYED / pattern) for pattern in deployed["rule_files"]]
    deployed["scrape_configs"] = [
        {
            "job_name": name,
            "static_configs": [{**jobs.get(name, {}).get("static_configs", [{}])[0], "targets": [address]}],
        }
        for name, address in targets.items()
    ]
    return deployed


def _series(one: dict[str, Any]) -> Series:
    points = [(float(at), float(value)) for at, value in one["values"]]
    points = [(at, value) for at, value in points if math.isfinite(value)]
    return Series(one["metric"], [at for at, _ in points], [value for _, value in points])
