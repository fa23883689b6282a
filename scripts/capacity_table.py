#!/usr/bin/env python
"""Write the tables of longest videos in docs/performance.md anew, from what `vinf bench capacity` counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.capacity import run
from benchmarks.report import Value
from benchmarks.settings import CapacitySettings

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

TABLES = {
    "vinf bench capacity": CapacitySettings(),
    "vinf bench capacity, 3-D attention": CapacitySettings(
        models=("skyreels-v1-t2v", "easyanimate-v5.1-7b", "easyanimate-v5.1-12b"), dtype="bfloat16"
    ),
}
"""What is counted, by the marker of its table."""


def markdown(rows: Sequence[dict[str, Value]]) -> str:
    """Lay rows out as a table; what is no whole number gets two decimals."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(marker: str, rows: Sequence[dict[str, Value]]) -> None:
    """Put the table between its markers."""
    table, marked = markdown(rows), re.compile(rf"(<!-- {re.escape(marker)} -->\n).*?(<!-- end -->)", re.DOTALL)
    PAGE.write_text(marked.sub(lambda found: found[1] + table + found[2], PAGE.read_text()))


def _cell(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    for name, settings in TABLES.items():
        (report,) = run(settings)
        write(name, report.rows)
