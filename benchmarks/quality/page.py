"""Puts the tables of a comparison into its page: python -m benchmarks.quality.page docs/quality.json docs/quality.md"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- tables: benchmarks/quality/page.py writes what follows -->", "<!-- end of the tables -->"


def tables(told: dict[str, Any]) -> str:
    """Every report of ``vinf bench quality --json`` as Markdown."""
    return "\n\n".join(_table(report) for report in told["reports"])


def put_in(page: str, text: str) -> str:
    """Replace what stands between the marks.

    Raises:
        ValueError: the page has not got them.
    """
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}"


def _table(report: dict[str, Any]) -> str:
    rows = report["rows"]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    # A column "p pixels" belongs into the cells of "pixels", and "X, in words" into those of "X".
    shown = [column for column in columns if not column.startswith("p ") and ", in words" not in column]
    lines = ["| " + " | ".join(shown) + " |", "|" + " --- |" * len(shown)]
    lines += ["| " + " | ".join(_cell(row, column) for column in shown) + " |" for row in rows]
    return "\n".join([f"### {report['title']}", "", *lines, "", " ".join(report["notes"])])


def _cell(row: dict[str, Any], column: str) -> str:
    text = _text(row.get(column))
    if row.get(f"p {column}") is not None:
        text += f", p {_text(row[f'p {column}'])}"
    if row.get(f"{column}, in words") is not None:
        text += f": {row[f'{column}, in words']}"
    return text


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:#.2g}".rstrip(".") if isinstance(value, float) else str(value)


def main(arguments: list[str]) -> None:
    """Read the JSON file, rewrite the page."""
    source, page = map(Path, arguments)
    page.write_text(put_in(page.read_text(), tables(json.loads(source.read_text()))))


if __name__ == "__main__":
    main(sys.argv[1:])
