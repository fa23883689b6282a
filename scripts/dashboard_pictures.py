"""Draws every row of the dashboard as it looks while a server with two ranks works.

    python -m scripts.dashboard_pictures [--out docs/images]

Starts `vinf serve` and Prometheus, gives the ranks a few generations and readers for two or three minutes, loses a rank
on the way, and draws what the panels' own expressions give: matplotlib plays Grafana, the data is real. Needs Debian's
package prometheus.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from scripts.panel_drawing import Drawn, Line, draw_row, name_of
from tests.observability.queries import dashboard, filled_in, metric_names
from tests.support.prometheus import Prometheus, is_installed
from tests.support.server import Server
from vinf_client import Client, GenerationCancelledError, GenerationHandle, InvalidRequestError

SCRAPE_SECONDS = 1.0
WINDOW_SECONDS = 10
STEP_SECONDS = 2.0
TIMEOUT = 600.0
"""Seconds for each thing waited for; far more than it takes."""

BALL, STAR, BOX = (
    "a red ball bouncing over the sea",
    "a yellow star circling over the city",
    "a purple box sliding over the meadow",
)


def main() -> int:
    """Draw all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    if not is_installed():
        print("needs prometheus and promtool: apt-get install prometheus", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="vinf-dashboard-") as name:
        folder = Path(name)
        with (
            Server(folder, "--ranks", "2", "--max-waiting", "6") as server,
            Prometheus(folder, {"vinf": server.metrics_url.split("/")[2]}, interval=SCRAPE_SECONDS) as prometheus,
        ):
            prometheus.wait_for("vinf_ready == 1", timeout=TIMEOUT)
            start = time.time()
            work(server)
            draw(prometheus, start, time.time(), arguments.out)
    return 0


def work(server: Server) -> None:
    """Give the ranks generations of several sizes and priorities, and have them read in several ways."""
    with Client(server.address) as client:
        for _ in range(3):
            with suppress(InvalidRequestError):
                client.submit("", frames=24)
        handles = [
            client.submit(BALL, frames=64, seed=1, steps=10, detached=True),
            client.submit(STAR, frames=96, seed=2, steps=12, detached=True),
            client.submit(BOX, frames=48, seed=3, steps=10, priority=7, detached=True),
            client.submit(BALL, frames=144, seed=4, steps=12, detached=True),
            client.submit(STAR, frames=64, seed=5, steps=50, detached=True),
            client.submit(BOX, frames=64, seed=6, steps=12, priority=2, detached=True),
        ]
        readers = [_in_a_thread(_stream, handle, "rgb24") for handle in handles[:4]]
        readers += [_in_a_thread(_stream, handle, "jpeg") for handle in handles[1:4]]
        readers += [_in_a_thread(_pull_slowly, handles[3])]
        # The fourth is the longest: it loses a rank half-way and goes on from its checkpoint.
        _wait_for_step(handles[3], 7)
        psutil.Process(client.info().ranks[1].pid).kill()
        _wait_for_step(handles[4], 5)
        handles[4].cancel()
        with suppress(GenerationCancelledError):
            handles[4].wait(TIMEOUT)
        _stream(handles[5], "png")
        _stream(handles[0], "rgb24", 10)
        for reader in readers:
            reader.join(TIMEOUT)
        # The pictures are of a server at work: this one goes on after the call.
        last = client.submit(BALL, frames=192, seed=7, steps=4, detached=True)
        for frame in last.frames():
            if frame.index >= 120:
                break


def _in_a_thread(what: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=what, args=arguments)
    thread.start()
    return thread


def _stream(handle: GenerationHandle, format: str, start: int = 0) -> None:
    for _ in handle.frames(start, format=format):
        pass


def _pull_slowly(handle: GenerationHandle) -> None:
    """Take the newest frame a few times a second, as an engine does that shows one now and then."""
    with handle.pull(latency="low") as puller:
        while puller.next(TIMEOUT) is not None:
            time.sleep(0.3)  # the reader's own pace


def _wait_for_step(handle: GenerationHandle, step: int) -> None:
    for update in handle.updates():
        if update.generation.progress.completed_step_count >= step:
            return


def draw(prometheus: Prometheus, start: float, end: float, out: Path) -> None:
    """Write a picture of every row."""
    out.mkdir(parents=True, exist_ok=True)
    for title, panels in rows(prometheus, start, end):
        path = out / f"dashboard-{title.lower().replace(' ', '-')}.png"
        draw_row(title, panels, points(start, end)).savefig(path)
        # A picture of few colours: a third of the bytes, and no difference to be seen.
        with Image.open(path) as picture:
            few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
            few.save(path, optimize=True)


def points(start: float, end: float) -> list[float]:
    """Return the times that panels are drawn at."""
    return [start + STEP_SECONDS * step for step in range(int((end - start) / STEP_SECONDS) + 1)]


def rows(prometheus: Prometheus, start: float, end: float) -> list[tuple[str, list[Drawn]]]:
    """Ask for the data of every panel; those of a row that is closed are among them."""
    found: list[tuple[str, list[Drawn]]] = []
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            found.append((panel["title"], []))
        inside = panel["panels"] if panel["type"] == "row" else [panel]
        found[-1][1].extend(_drawn(prometheus, one, start, end) for one in inside)
    return found


def _drawn(prometheus: Prometheus, panel: dict[str, Any], start: float, end: float) -> Drawn:
    panel["title"] = panel["title"].replace("${agg_method:text}", "0.90")
    lines: list[Line] = []
    why = ""
    for target in panel["targets"]:
        expr = filled_in(target["expr"], window=f"{WINDOW_SECONDS}s", shown=f"{round(end - start)}s")
        found = (
            prometheus.query(expr, at=end)
            if target.get("instant")
            else prometheus.query_range(expr, start, end, step=STEP_SECONDS)
        )
        lines += [Line(name_of(target["legendFormat"], series.labels), series, series.labels) for series in found]
        if any(name.startswith(("DCGM_", "vinf_gpu_")) for name in metric_names(expr)):
            why = "no GPU in this machine"
    return Drawn(panel, lines, why)


if __name__ == "__main__":
    sys.exit(main())
