"""What a benchmark found: a table for people, one line of JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import diffusers
import torch

from benchmarks.settings import AnySettings, QualitySettings, Settings
from benchmarks.timing import Spread

Value = str | int | float | Spread | None
"""A cell; None where there is nothing to say."""


@dataclass(kw_only=True, slots=True)
class Report:
    """Rows under named columns, and sentences that belong to them."""

    title: str
    rows: list[dict[str, Value]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Lay the rows out for a terminal."""
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        cells = [columns, *([_cell(row.get(column)) for column in columns] for row in self.rows)]
        if len(self.rows) == 1:  # one row reads better downwards
            cells = [list(line) for line in zip(*cells, strict=True)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
        blocks = ([self.title], [line.rstrip() for line in lines], self.notes)
        return "\n\n".join("\n".join(block) for block in blocks if any(block))


def as_json(command: Sequence[str], settings: AnySettings, device: torch.device, reports: Sequence[Report]) -> str:
    """One line: the machine, the settings, and every table. A spread is an object of median, low and high."""
    return json.dumps(
        {
            "command": ["vinf", "bench", *command],
            "machine": machine(device),
            "settings": asdict(settings),
            "reports": [asdict(report) for report in reports],
        }
    )


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device": device.type,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def describe(facts: Mapping[str, Any], settings: AnySettings) -> str:
    """The machine and the settings in one line."""
    if isinstance(settings, QualitySettings):
        return f"{settings.steps} denoising steps on {facts['cpu']}, one thread; torch {facts['torch']}"
    if not isinstance(settings, Settings):
        place = f"{facts['cpu']}, {facts['cores']} cores" + (f", {facts['gpu']}" if facts["gpu"] else "")
        return f"server, clients and the measurement on {place}"
    place = facts["gpu"] or f"{facts['cpu']}, {settings.threads} of {facts['cores']} cores a rank"
    return f"{settings.model} in {settings.dtype} on {place}; torch {facts['torch']}, diffusers {facts['diffusers']}"


def say(message: str) -> None:
    """Tell how far the work is, on standard error."""
    print(f"vinf bench: {message}", file=sys.stderr, flush=True)


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, Spread):
        return f"{_number(value.median)} [{_number(value.low)}, {_number(value.high)}]"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
