"""Draw what `vinf trace` wrote: the whole generation, one step of it, and a piece of that step.

python scripts/trace_picture.py docs/traces/two-ranks.json.gz docs/images/trace.png
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

COLOURS = {
    "state": "#9aa3ad",
    "store": "#59636e",
    "read": "#c9a227",
    "text": "#8e6bbf",
    "compute": "#2f7fbf",
    "communicate": "#d1495b",
    "transfer": "#f2b5a7",
    "wait": "#e3a008",
    "checkpoint": "#6b8f71",
    "decode": "#3a9a5c",
    "deliver": "#17676b",
}
MEANINGS = {
    "compute": "compute",
    "communicate": "communicate: computing stands still",
    "transfer": "transfer: frames are on their way",
    "wait": "wait for others",
    "checkpoint": "checkpoint",
    "decode": "decode",
    "deliver": "deliver",
}
OVERVIEW = ("compute", "communicate", "wait", "checkpoint", "decode", "deliver")
DETAIL = ("compute", "communicate", "transfer")
PIECE = 0.045
"""Of a step: a handful of exchanges."""


@dataclass(frozen=True)
class Bar:
    """A span, in milliseconds from the beginning of the trace."""

    process: str
    lane: str
    name: str
    start: float
    duration: float

    @property
    def end(self) -> float:
        return self.start + self.duration


def read(path: Path) -> list[Bar]:
    """Read the complete events of a trace, under the names that its metadata events give."""
    data = path.read_bytes()
    events: list[dict[str, Any]] = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    return [
        Bar(processes[e["pid"]], e["cat"], e["name"], e["ts"] / 1000, e["dur"] / 1000) for e in events if e["ph"] == "X"
    ]


def is_drawn(bar: Bar) -> bool:
    """A step is drawn as the stretches in which it computed."""
    return not (bar.lane == "compute" and bar.name != "computing")


def draw(
    axes: Axes, bars: list[Bar], lanes: tuple[str, ...], window: tuple[float, float], *, scale: float, zero: float = 0
) -> None:
    """Draw a row a lane of each rank.

    Args:
        axes: where.
        bars: of all ranks.
        lanes: which of them.
        window: begin and end, in milliseconds.
        scale: milliseconds in a unit of the axis.
        zero: where the axis begins to count, in milliseconds.
    """
    begin, end = window
    rows = [(rank, lane) for rank in ranks_of(bars) for lane in lanes]
    for position, (rank, lane) in enumerate(rows):
        inside = [b for b in bars if (b.process, b.lane) == (rank, lane) and b.end > begin and b.start < end]
        least = (end - begin) / 3000  # what is too short for a pixel is drawn as one
        starts = [max(b.start, begin) for b in inside]
        spans = [
            ((start - zero) / scale, max(b.end - start, least) / scale) for b, start in zip(inside, starts, strict=True)
        ]
        axes.broken_barh(spans, (position - 0.4, 0.8), facecolors=COLOURS[lane], linewidth=0)
        if position and position % len(lanes) == 0:
            axes.axhline(position - 0.5, color="#333333", linewidth=0.8)
    axes.set_xlim((begin - zero) / scale, (end - zero) / scale)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [f"{rank}  {lane}" for rank, lane in rows], fontsize=8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def ranks_of(bars: list[Bar]) -> list[str]:
    """The ranks' names, in order."""
    return sorted({bar.process for bar in bars if bar.process != "server"})


def middle_step(bars: list[Bar]) -> Bar:
    """The step in the middle of the first rank's."""
    steps = [b for b in bars if b.process == ranks_of(bars)[0] and b.name.startswith("step")]
    return steps[len(steps) // 2]


def busiest(bars: list[Bar], step: Bar, width: float) -> tuple[float, float]:
    """The piece of a step in which most of the exchanges' time was hidden."""
    rank = step.process
    mine = [b for b in bars if b.process == rank and b.end > step.start and b.start < step.end]

    def hidden(begin: float) -> float:
        inside = [b for b in mine if b.start >= begin and b.end <= begin + width]
        total: Callable[[str], float] = lambda lane: sum(b.duration for b in inside if b.lane == lane)  # noqa: E731
        return total("transfer") - total("communicate")

    starts = [b.start - 0.1 * width for b in mine if b.lane == "transfer" and b.start + width <= step.end]
    begin = max(starts, key=hidden)
    return begin, begin + width


def picture(bars: list[Bar], target: Path) -> None:
    """Draw the three windows, one above the other."""
    step = middle_step(bars)
    piece = busiest(bars, step, PIECE * step.duration)
    figure, (whole, one, near) = plt.subplots(3, 1, figsize=(12, 10), height_ratios=(6, 4, 4), layout="constrained")
    drawn = [bar for bar in bars if is_drawn(bar)]
    running = [bar for bar in drawn if bar.process != "server"]
    draw(whole, drawn, OVERVIEW, (min(b.start for b in running), max(b.end for b in running)), scale=1000)
    whole.axvspan(step.start / 1000, step.end / 1000, color="#000000", alpha=0.10, linewidth=0)
    whole.set_title("the whole generation; the shaded step is below", loc="left", fontsize=10)
    whole.set_xlabel("seconds", fontsize=8)
    draw(one, drawn, DETAIL, (step.start, step.end), scale=1, zero=step.start)
    one.axvspan(piece[0] - step.start, piece[1] - step.start, color="#000000", alpha=0.10, linewidth=0)
    one.set_title(f"{step.name}; the shaded piece is below", loc="left", fontsize=10)
    one.set_xlabel("milliseconds from the beginning of the step", fontsize=8)
    draw(near, drawn, DETAIL, piece, scale=1, zero=step.start)
    near.set_title("a piece of it", loc="left", fontsize=10)
    near.set_xlabel("milliseconds from the beginning of the step", fontsize=8)
    handles = [Patch(color=COLOURS[lane], label=text) for lane, text in MEANINGS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    for axes in (whole, one, near):
        axes.tick_params(axis="x", labelsize=8)
    figure.savefig(target, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, help="what vinf trace wrote, .json or .json.gz")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    arguments = parser.parse_args()
    picture(read(arguments.trace), arguments.picture)


if __name__ == "__main__":
    main()
