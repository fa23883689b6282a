"""Resident memory over a long time of work: `python -m tests.chaos.soak --minutes 60`.

Short generations back to back, each read by several readers, while the memory of the front and of every rank is
sampled. The slope after the warm-up is what a server would grow by.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib.util
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from tests.chaos.api import Api, v1
from tests.chaos.front import ChaosFront, run_to_the_end
from tests.chaos.history import GenerationLog, History
from tests.chaos.readers import Reading
from tests.chaos.resources import look
from tests.chaos.specs import SPECS
from vinf.v1 import generation_pb2

SAMPLE_S = 10.0

WARM_UP_SHARE = 0.2
"""Of the time, before the slope is taken: pools, caches and allocators fill up."""

READERS = 3


@dataclass(slots=True)
class SoakReport:
    """Samples, and the lines through them."""

    names: list[str]
    """"front" without the frames it caches, "cached frames", "rank 0", ..."""

    seconds: list[float] = field(default_factory=list)
    resident_bytes: list[list[int]] = field(default_factory=list)
    """One row a sample, one column a name."""

    generations: int = 0
    frames: int = 0
    failed: int = 0

    def slopes(self) -> dict[str, float]:
        """MB an hour for each process, by least squares over the samples after the warm-up."""
        times = np.array(self.seconds)
        kept = times >= WARM_UP_SHARE * times[-1]
        if kept.sum() < 2:
            raise ValueError(f"{len(times)} samples are too few for a slope; run for longer")
        lines = np.polyfit(times[kept] / 3600, np.array(self.resident_bytes)[kept] / 1e6, 1)[0]
        return dict(zip(self.names, map(float, lines), strict=True))

    def __str__(self) -> str:
        rows = [f"soak: {self.seconds[-1] / 60:.1f} min, {self.generations} generations, {self.frames} frames read"]
        for column, (name, slope) in enumerate(self.slopes().items()):
            first, last = (self.resident_bytes[row][column] / 1e6 for row in (0, -1))
            rows.append(f"  {name:<13} {first:8.1f} MB at first, {last:8.1f} MB at last, {slope:+8.2f} MB an hour")
        return "\n".join([*rows, *([f"  {self.failed} generations did not succeed"] if self.failed else [])])

    def write_csv(self, path: Path) -> None:
        """One line a sample."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["seconds", *(f"{name} resident bytes" for name in self.names)])
            writer.writerows([f"{at:.1f}", *row] for at, row in zip(self.seconds, self.resident_bytes, strict=True))

    def draw(self, path: Path) -> None:
        """A picture of it; needs matplotlib."""
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(8, 4))
        for column, name in enumerate(self.names):
            axes.plot(np.array(self.seconds) / 60, [row[column] / 1e6 for row in self.resident_bytes], label=name)
        axes.set(xlabel="minutes", ylabel="resident MB", ylim=(0, None))
        axes.legend()
        figure.savefig(path, dpi=100, bbox_inches="tight")


async def soak(front: ChaosFront, *, seconds: float, specs: Sequence[str], sample_s: float = SAMPLE_S) -> SoakReport:
    """Keep a front busy that is up, and sample its memory."""
    api = Api(front.address)
    try:
        ranks = sorted((await api.info()).ranks, key=lambda rank: rank.rank)
        processes = [psutil.Process(rank.pid) for rank in ranks]
        report = SoakReport(["front", "cached frames", *(f"rank {rank.rank}" for rank in ranks)])
        began = time.monotonic()
        working = asyncio.create_task(_work(api, report, specs, until=began + seconds))
        while not working.done():
            report.seconds.append(time.monotonic() - began)
            # The cache fills up to its bound, and would look like a leak until then.
            now = await asyncio.to_thread(look, front)
            resident = [process.memory_info().rss for process in processes]
            report.resident_bytes.append([now.lasting_bytes, now.cached_bytes, *resident])
            await asyncio.wait({working}, timeout=sample_s)
        await working
        return report
    finally:
        await api.close()


async def _work(api: Api, report: SoakReport, specs: Sequence[str], *, until: float) -> None:
    rng = random.Random(0)
    while time.monotonic() < until:
        name = specs[report.generations % len(specs)]
        history = History()  # a new one each time: what is measured is the server, but this should not grow either
        reply = await api.video.CreateGeneration(v1.CreateGenerationRequest(spec=SPECS[name], detached=True))
        generation_id = reply.generation.generation_id
        history.created(generation_id, GenerationLog("soak", name, submit_time=time.monotonic()))
        reading = Reading(history, rng, Counter())
        logs = [history.reader("soak", generation_id) for _ in range(READERS)]
        await asyncio.gather(*(reading.follow(api, log) for log in logs))
        report.generations += 1
        report.frames += sum(log.following for log in logs)
        report.failed += logs[0].streams[-1].end_state != generation_pb2.GENERATION_STATE_SUCCEEDED


def main(argv: list[str] | None = None) -> int:
    """Start a server, keep it busy, print the slopes."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/soak"), metavar="DIR", help="for the CSV and the picture")
    arguments = parser.parse_args(argv)
    report = run_to_the_end(_soak_own_front(arguments.minutes * 60, arguments.ranks))
    arguments.out.mkdir(parents=True, exist_ok=True)
    report.write_csv(arguments.out / "soak.csv")
    if importlib.util.find_spec("matplotlib") is not None:
        report.draw(arguments.out / "soak.png")
    print(report)
    return bool(report.failed)


async def _soak_own_front(seconds: float, ranks: int) -> SoakReport:
    front = ChaosFront("--device", "cpu", "--ranks", str(ranks), "--rank-weights", "even")
    try:
        front.start()
        await front.wait_ready()
        return await soak(front, seconds=seconds, specs=("short", "plain", "odd"))
    finally:
        front.end_everything()
        front.remove()


if __name__ == "__main__":
    sys.exit(main())
