"""Panels of a Grafana dashboard, drawn with matplotlib: the same kinds, places, titles, units, colours and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle, Wedge
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, MultipleLocator

from scripts.panel_units import written
from tests.support.prometheus import Series

PAGE, PANEL, EDGE, TEXT, FAINT = "#111217", "#181b1f", "#2c3036", "#ccccdc", "#8e8e9f"
NAMED = {"green": "#73bf69", "yellow": "#fade2a", "red": "#f2495c", "blue": "#5794f2", "orange": "#ff9830"}
LINES = (
    *("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ff7383"),
    *("#96d98d", "#ffee52", "#c0d8ff", "#ffb357", "#deb6f2", "#37872d", "#e0b400", "#1f60c4"),
)
HEAT = LinearSegmentedColormap.from_list("heat", ["#2b1d12", "#7f3b08", "#e66101", "#fdb863", "#fff1d6"])

COLUMN, LINE, GAP, HEAD = 60, 38, 8, 34  # pixels
DPI = 100
LEGEND_LINE = 16
MAX_LEGEND = 5

rcParams["font.family"] = ["DejaVu Sans"]
rcParams["font.size"] = 8.5


@dataclass(frozen=True, slots=True)
class Line:
    """A series with the name that the panel gives it."""

    name: str
    series: Series
    labels: dict[str, str]

    def at(self, times: Sequence[float]) -> np.ndarray:
        """Return its values at times, NaN where it has none."""
        known = {round(at, 3): value for at, value in zip(self.series.times, self.series.values, strict=True)}
        return np.array([known.get(round(at, 3), math.nan) for at in times])


@dataclass(frozen=True, slots=True)
class Drawn:
    """A panel as the dashboard has it, with its data; or with the reason why there is none."""

    panel: dict[str, Any]
    lines: Sequence[Line]
    why_empty: str

    @property
    def defaults(self) -> dict[str, Any]:
        """What holds for all its series: unit, limits, words for values."""
        found: dict[str, Any] = self.panel["fieldConfig"]["defaults"]
        return found

    def text(self, value: float) -> str:
        """Write a value in the panel's unit, or in the words it has for it."""
        for mapping in self.defaults.get("mappings", ()):
            if f"{value:g}" in mapping["options"]:
                return str(mapping["options"][f"{value:g}"]["text"])
        decimals = self.defaults.get("decimals")
        return written(value, self.defaults["unit"], None if decimals is None else int(decimals))

    def colour(self, value: float) -> str:
        """Colour a value by the words or the limits it falls under."""
        for mapping in self.defaults.get("mappings", ()):
            if f"{value:g}" in mapping["options"]:
                return NAMED[mapping["options"][f"{value:g}"]["color"]]
        name = next(step["color"] for step in reversed(self._steps()) if (step["value"] or -math.inf) <= value)
        return NAMED[name]

    def limits(self) -> list[tuple[float, str]]:
        """Its limits and their colours, without the one from which all begins."""
        return [(step["value"], NAMED[step["color"]]) for step in self._steps() if step["value"] is not None]

    def _steps(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.defaults["thresholds"]["steps"]
        return found


def name_of(legend: str, labels: dict[str, str]) -> str:
    """Name a series as its legend says; Grafana lists the labels where it says nothing."""
    if legend != "__auto":
        return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), legend)
    return ", ".join(f"{name}={value}" for name, value in labels.items() if name != "__name__") or "value"


def draw_row(title: str, panels: Sequence[Drawn], times: Sequence[float]) -> Figure:
    """Draw a row of the dashboard: its heading, and every panel at its place.

    Args:
        title: of the row.
        panels: with data at ``times``; where there is none, lines have gaps.
        times: seconds since 1970, evenly spaced.
    """
    top = min(drawn.panel["gridPos"]["y"] for drawn in panels)
    bottom = max(drawn.panel["gridPos"]["y"] + drawn.panel["gridPos"]["h"] for drawn in panels)
    width, height = 24 * COLUMN, HEAD + (bottom - top) * LINE
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAGE)
    canvas = figure.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, width), ylim=(height, 0))
    canvas.axis("off")
    canvas.text(14, HEAD / 2 + 2, f"⌄  {title}", color=TEXT, size=12, weight="bold", va="center")
    for drawn in panels:
        place = drawn.panel["gridPos"]
        box = _Box(
            figure,
            canvas,
            place["x"] * COLUMN + GAP / 2,
            HEAD + (place["y"] - top) * LINE + GAP / 2,
            place["w"] * COLUMN - GAP,
            place["h"] * LINE - GAP,
        )
        box.frame(drawn.panel["title"])
        if any(line.series.values for line in drawn.lines):
            _KINDS[drawn.panel["type"]](box, drawn, times)
        else:
            box.say("no data", drawn.why_empty)
    return figure


class _Box:
    """A panel's place on the picture, in pixels from the top left."""

    def __init__(self, figure: Figure, canvas: Axes, x: float, y: float, w: float, h: float) -> None:
        self.figure, self.canvas = figure, canvas
        self.x, self.y, self.w, self.h = x, y, w, h

    def frame(self, title: str) -> None:
        style = "round,pad=0,rounding_size=3"
        self.canvas.add_patch(FancyBboxPatch((self.x, self.y), self.w, self.h, boxstyle=style, fc=PANEL, ec=EDGE, lw=1))
        self.canvas.text(self.x + 10, self.y + 15, title, color=TEXT, size=9, weight="bold", va="center")

    def say(self, text: str, below: str) -> None:
        x, y = self.x + self.w / 2, self.y + self.h / 2 + 8
        self.canvas.text(x, y - 8, text, color=FAINT, size=13, ha="center", va="center")
        self.canvas.text(x, y + 12, below, color=FAINT, size=8, ha="center", va="center")

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """An area inside, so many pixels away from the edges."""
        width, height = (side * DPI for side in self.figure.get_size_inches())
        x, y = self.x + left, height - (self.y + self.h - bottom)
        size = ((self.w - left - right) / width, (self.h - top - bottom) / height)
        return self.figure.add_axes((x / width, y / height, *size), facecolor="none")


def _clock(at: float, _: object = None) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def _alone(values: np.ndarray) -> list[int]:
    """Find values without neighbours: a line through them would not be seen."""
    there = np.concatenate(([False], ~np.isnan(values), [False]))
    return [int(place) for place in np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])]


def _are_whole(lines: Sequence[Line]) -> bool:
    return all(value.is_integer() for line in lines for value in line.series.values)


def _ticks(unit: str, top: float, *, whole: bool) -> Locator:
    """Choose round values: powers of two for bytes, halves and multiples of minutes for long times."""
    if unit == "bytes":
        return MultipleLocator(2.0 ** math.ceil(math.log2(max(top, 1.0) / 5)))
    if unit == "s" and top > 90:
        return MultipleLocator(next((step for step in (30, 60, 120, 300, 600) if top / step < 6), 3600))
    return MaxNLocator(5, integer=whole)


def _plain(axes: Axes, times: Sequence[float]) -> None:
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(colors=FAINT, length=0, labelsize=7.5)
    axes.set_xlim(times[0], times[-1])
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(_clock))


def _graph(box: _Box, drawn: Drawn, times: Sequence[float]) -> None:
    custom = drawn.defaults.get("custom", {})
    lines = [line for line in drawn.lines if line.series.values]
    stacked, bars = "stacking" in custom, custom.get("drawStyle") == "bars"
    shown = min(len(lines), MAX_LEGEND)
    axes = box.axes(66, 32, 14, 34 + LEGEND_LINE * (shown + 1))
    _plain(axes, times)
    axes.grid(color=EDGE, lw=0.7)
    axes.set_axisbelow(True)
    below = np.zeros(len(times))
    for position, line in enumerate(lines):
        colour = LINES[position % len(LINES)]
        values = line.at(times)
        if bars:
            axes.bar(times, np.nan_to_num(values), (times[1] - times[0]) * 0.9, below, color=colour, alpha=0.8)
        else:
            upper = below + np.nan_to_num(values) if stacked else values
            axes.plot(times, upper, color=colour, lw=1.2, marker="o", markevery=_alone(upper), ms=3)
            axes.fill_between(times, below, upper, color=colour, alpha=0.3 if stacked else 0.08, lw=0)
        if stacked:
            below = below + np.nan_to_num(values)
    highest = max(float(np.max(below)) if stacked else 0.0, *(max(line.series.values) for line in lines))
    top = max(highest * 1.12 or 1.0, custom.get("axisSoftMax", 0.0))
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(_ticks(drawn.defaults["unit"], top, whole=highest > 1 and _are_whole(lines)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, drawn.defaults["unit"])))
    if "thresholdsStyle" in custom:
        for value, colour in drawn.limits():
            if value <= top:
                axes.axhline(value, color=colour, lw=1, ls=(0, (6, 4)))
    _legend(box, drawn, lines, shown)


def _legend(box: _Box, drawn: Drawn, lines: Sequence[Line], shown: int) -> None:
    y = box.y + box.h - 12 - LEGEND_LINE * shown
    ends = [box.x + box.w - 14 - offset for offset in (0, 74, 148)]
    for name, x in zip(("max", "mean", "last"), ends, strict=True):
        box.canvas.text(x, y, name, color=NAMED["blue"], size=7.5, ha="right", va="center")
    ranked = sorted(enumerate(lines), key=lambda one: -max(one[1].series.values))
    for place, (position, line) in enumerate(ranked[:shown], start=1):
        values = line.series.values
        here = y + LEGEND_LINE * place
        box.canvas.add_patch(Rectangle((box.x + 12, here - 1.5), 12, 3, color=LINES[position % len(LINES)]))
        rest = f"   (+ {len(lines) - shown} more)" if place == shown and len(lines) > shown else ""
        room = int((box.w - 260) / 6.2)
        name = line.name if len(line.name) <= room else line.name[: room - 1] + "…"
        box.canvas.text(box.x + 30, here, name + rest, color=TEXT, size=7.5, va="center")
        for value, x in zip((max(values), sum(values) / len(values), values[-1]), ends, strict=True):
            box.canvas.text(x, here, drawn.text(value), color=TEXT, size=7.5, ha="right", va="center")


def _number(box: _Box, drawn: Drawn, times: Sequence[float]) -> None:
    lines = [line for line in drawn.lines if line.series.values]
    if drawn.panel["options"].get("textMode") == "name":
        for place, line in enumerate(lines):
            y = box.y + box.h * (place + 1) / (len(lines) + 1) + 8
            box.canvas.text(
                box.x + box.w / 2, y, line.name, color=NAMED["blue"], size=14, ha="center", va="center", weight="bold"
            )
        return
    line = lines[0]
    value = line.series.values[-1]
    spark = drawn.panel["options"]["graphMode"] == "area"
    if spark:
        axes = box.axes(1, box.h * 0.62, 1, 1)
        axes.axis("off")
        axes.plot(times, line.at(times), color=drawn.colour(value), lw=1.2)
        axes.fill_between(times, line.at(times), color=drawn.colour(value), alpha=0.2, lw=0)
        axes.set(xlim=(times[0], times[-1]), ylim=(0, max(line.series.values) * 1.1 or 1))
    x, y = box.x + box.w / 2, box.y + box.h * (0.46 if spark else 0.58)
    text = drawn.text(value)
    size = min(26, 1.05 * box.w / max(4, len(text)))
    box.canvas.text(x, y, text, color=drawn.colour(value), size=size, ha="center", va="center", weight="bold")


def _dial(box: _Box, drawn: Drawn, times: Sequence[float]) -> None:
    lines = [line for line in drawn.lines if line.series.values]
    top = float(drawn.defaults["max"])
    for place, line in enumerate(lines):
        value = line.series.values[-1]
        room = box.w / len(lines)
        named = len(lines) > 1
        radius = min(room * 0.4, (box.h - 44 - 16 * named) * 0.72)
        x = box.x + room * (place + 0.5)
        y = box.y + 34 + radius + max(0.0, (box.h - 44 - 16 * named - radius * 1.3) / 2)

        def angle(part: float) -> float:
            return 200 - 220 * min(max(part / top, 0.0), 1.0)

        edges = [(0.0, drawn.colour(0.0)), *drawn.limits(), (top, "")]
        for (low, colour), (high, _) in pairwise(edges):
            # The canvas has y downwards, so angles run the other way round.
            box.canvas.add_patch(Wedge((x, y), radius, -angle(low), -angle(high), width=radius * 0.06, fc=colour))
        inner = radius * 0.9
        box.canvas.add_patch(Wedge((x, y), inner, -angle(0), -angle(top), width=inner * 0.28, fc=EDGE))
        if value > 0:
            box.canvas.add_patch(
                Wedge((x, y), inner, -angle(0), -angle(value), width=inner * 0.28, fc=drawn.colour(value))
            )
        size = max(9.0, radius * 0.2)
        box.canvas.text(
            x, y, drawn.text(value), color=drawn.colour(value), size=size, ha="center", va="center", weight="bold"
        )
        if named:
            box.canvas.text(x, y + radius * 0.55 + 8, line.name, color=TEXT, size=7.5, ha="center", va="center")


def _heat(box: _Box, drawn: Drawn, times: Sequence[float]) -> None:
    lines = sorted(drawn.lines, key=lambda line: float(line.labels["le"]))
    grid = np.array([np.nan_to_num(line.at(times)) for line in lines])
    cells = np.diff(grid, axis=0, prepend=0.0)
    used = [position for position in range(len(lines)) if cells[position].max() > 1e-9]
    low, high = max(0, used[0] - 1), min(len(lines), used[-1] + 2)
    axes = box.axes(66, 32, 14, 48)
    _plain(axes, times)
    shown = np.ma.masked_less_equal(cells[low:high], 1e-9)
    step = times[1] - times[0]
    edges = [*times, times[-1] + step]
    axes.pcolormesh(edges, range(high - low + 1), shown**0.5, cmap=HEAT, edgecolors=PANEL, lw=0.05)
    axes.set_yticks([position + 1 for position in range(high - low)])
    unit = drawn.defaults["unit"]
    axes.set_yticklabels(
        [written(float(line.labels["le"]), unit) if line.labels["le"] != "+Inf" else "∞" for line in lines[low:high]]
    )
    bar = box.axes(66, box.h - 18, box.w / 2, 10)
    bar.imshow(np.linspace(0, 1, 128)[None], aspect="auto", cmap=HEAT)
    bar.axis("off")
    box.canvas.text(
        box.x + box.w / 2 + 14,
        box.y + box.h - 14,
        f"0 to {cells.max():.3g} in a bucket",
        color=FAINT,
        size=7.5,
        va="center",
    )


def _timeline(box: _Box, drawn: Drawn, times: Sequence[float]) -> None:
    axes = box.axes(110, 32, 14, 48)
    _plain(axes, times)
    names = [line.name for line in drawn.lines]
    for position, line in enumerate(drawn.lines):
        step = times[1] - times[0]
        for at, value in zip(line.series.times, line.series.values, strict=True):
            axes.add_patch(Rectangle((at, position - 0.4), step, 0.8, fc=to_rgba(drawn.colour(value), 0.85), lw=0))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels(names)
    x = box.x + 14.0
    for mapping in drawn.defaults["mappings"]:
        for word in mapping["options"].values():
            box.canvas.add_patch(Rectangle((x, box.y + box.h - 16), 12, 3, color=NAMED[word["color"]]))
            box.canvas.text(x + 18, box.y + box.h - 14, word["text"], color=TEXT, size=7.5, va="center")
            x += 80


_KINDS = {"timeseries": _graph, "stat": _number, "gauge": _dial, "heatmap": _heat, "state-timeline": _timeline}
