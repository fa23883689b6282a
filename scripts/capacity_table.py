#!/usr/bin/env python
"""Write the table of longest videos in docs/performance.md anew, from what `vinf bench capacity` counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.capacity import run
from benchmarks.report import Value
from benchmarks.settings import CapacitySettings

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MARKED = re.compile(r"(<!-- vinf bench capacity -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(rows: Sequence[dict[str, Value]]) -> str:
    """Lay rows out as a table; what is no whole number gets two decimals."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(rows: Sequence[dict[str, Value]]) -> None:
    """Put the table between its markers."""
    table = markdown(rows)
    PAGE.write_text(MARKED.sub(lambda found: found[1] + table + found[2], PAGE.read_text()))


def _cell(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    (report,) = run(CapacitySettings())
    write(report.rows)
