#!/usr/bin/env python
"""Write the tables of the data path's memory in docs/performance.md anew: `memory_table.py FILE`.

FILE is what `vinf bench memory --json` printed.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MARKED = re.compile(r"(<!-- vinf bench memory -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Lay rows out as a table; of a spread the median, and the ends where they differ from it."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def section(found: dict[str, Any]) -> str:
    """All tables of a run, with what they were taken on."""
    machine = found["machine"]
    place = machine["gpu"] or f"{machine['cpu']}, {found['settings']['threads']} of {machine['cores']} cores"
    turns = found["settings"]["repeats"]
    parts = [f"`{' '.join(found['command'])}` on {place}, torch {machine['torch']}; turns that count: {turns}.\n"]
    parts += [f"{report['title']}:\n\n{markdown(report['rows'])}" for report in found["reports"]]
    return "\n" + "\n".join(parts)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        low, middle, high = (_number(value[name]) for name in ("low", "median", "high"))
        return middle if low == high else f"{middle} [{low}, {high}]"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    text = section(json.loads(Path(sys.argv[1]).read_text()))
    PAGE.write_text(MARKED.sub(lambda found: found[1] + text + found[2], PAGE.read_text()))
