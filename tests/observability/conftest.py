"""A server that has worked, failed and recovered while Prometheus watched; one for all tests here."""

from __future__ import annotations

import http.server
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.prometheus import Prometheus, is_installed
from tests.support.server import Server
from vinf_client import Client, GenerationCancelledError, GenerationHandle, InvalidRequestError

SCRAPE_SECONDS = 0.5
PROMPT = "a red ball bouncing over the sea"
GPU_HOST = Path(__file__).with_name("gpu_host.prom")


@dataclass(frozen=True, slots=True)
class Observed:
    """What was watched.

    Attributes:
        prometheus: still running, and still scraping.
        page: the server's metrics at the end.
        start: when the first generation was submitted, in seconds since 1970.
        end: when Prometheus had seen all of it.
    """

    prometheus: Prometheus
    page: str
    start: float
    end: float


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Two ranks that made videos, lost one of them and went on; readers, a cancelled generation, a refused one."""
    if not is_installed():
        pytest.skip("needs prometheus and promtool: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("observed")
    gpu_page = folder / "gpu_host.prom"
    gpu_page.write_text(GPU_HOST.read_text())
    with Server(folder, "--ranks", "2", "--rank-weights", "even") as server, _exporter(gpu_page) as gpu_host:
        targets = {"vinf": server.metrics_url.split("/")[2], "gpu-host": gpu_host}
        with Prometheus(folder, targets, interval=SCRAPE_SECONDS) as prometheus:
            prometheus.wait_for('vinf_ready == 1 and up{job="vinf"} == 1', timeout=20)
            prometheus.wait_for('vinf_gpu_xid_errors_total{xid="43"} == 0', timeout=20)
            start = time.time()
            _work(server)
            _report_errors(gpu_page)
            prometheus.wait_for('vinf_gpu_xid_errors_total{xid="999"} == 1', timeout=20)
            # The last thing that happens, in a rate of ten seconds, and the last rule.
            prometheus.wait_for("rate(vinf_cancel_latency_seconds_count[10s]) > 0", timeout=20)
            prometheus.wait_for("instance_model_name:vinf_generations_failed:ratio_rate10m == 0", timeout=20)
            # A scrape that took too long would take everything of its target away at this moment.
            prometheus.wait_for('up{job="vinf"} == 1 and on () up{job="gpu-host"} == 1', timeout=20)
            end = time.time()
            with urllib.request.urlopen(server.metrics_url, timeout=20) as answer:
                page = answer.read().decode()
            yield Observed(prometheus, page, start, end)


def _work(server: Server) -> None:
    """Make what every panel shows happen once."""
    with Client(server.address) as client:
        with pytest.raises(InvalidRequestError):
            client.submit("", frames=24)
        first = client.submit(PROMPT, frames=24, seed=1, steps=3, detached=True)
        second = client.submit(PROMPT, frames=24, seed=2, steps=6, detached=True)
        third = client.submit(PROMPT, frames=48, seed=3, steps=100, detached=True)
        with first.pull() as puller:
            watcher = threading.Thread(target=lambda: list(first.frames(start=10, format="jpeg")))
            watcher.start()
            assert len(list(puller)) == 24
            watcher.join(60)
        # Lose a rank in the middle of a generation: it goes on with new ones.
        _wait_for_step(second, 2)
        psutil.Process(client.info().ranks[1].pid).kill()
        assert len(list(second.frames())) == 24
        _wait_for_step(third, 1)
        third.cancel()
        with pytest.raises(GenerationCancelledError):
            third.wait(60)


def _report_errors(gpu_page: Path) -> None:
    """Have the driver report two errors: one of a number that was told as 0 before, and one of a new number."""
    page = gpu_page.read_text()
    (before,) = (line for line in page.splitlines() if line.startswith("vinf_gpu_xid_errors_total"))
    known = before.removesuffix(" 0") + " 1"
    new = known.replace('xid="43"', 'xid="999"')
    unfinished = gpu_page.with_suffix(".part")
    unfinished.write_text(page.replace(before, f"{known}\n{new}"))
    unfinished.replace(gpu_page)  # at once: it may be read at this moment


def _wait_for_step(handle: GenerationHandle, step: int) -> None:
    """Return when the generation has done this many denoising steps."""
    for update in handle.updates():
        if update.generation.progress.completed_step_count >= step:
            return
    raise AssertionError(f"it ended before step {step}: {handle.refresh()}")


@contextmanager
def _exporter(page: Path) -> Iterator[str]:
    """Serve a page of metrics on a free port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(BrokenPipeError):  # Prometheus waits for its interval at most
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(page.read_bytes())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)
