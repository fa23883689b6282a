"""Where panels stand: rows below each other, in each the next panel at the first free place of 24 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models import dashboard

COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and its panels, in reading order; closed ones are opened by a click."""

    title: str
    panels: Sequence[dashboard.Panel]
    closed: bool = False


def placed(rows: Sequence[Row]) -> list[dashboard.Panel | dashboard.RowPanel]:
    """Give every row and panel its place and number; panels of closed rows stay inside theirs, as Grafana wants it."""
    found: list[dashboard.Panel | dashboard.RowPanel] = []
    top, number = 0, 0
    for row in rows:
        number += 1
        heading = dashboard.RowPanel(
            title=row.title,
            collapsed=row.closed,
            id_val=number,
            grid_pos=dashboard.GridPos(x=0, y=top, w=COLUMNS, h=1),
            panels=list(row.panels) if row.closed else [],
        )
        found.append(heading)
        bottom = _place(row.panels, top + 1)
        for panel in row.panels:
            number += 1
            panel.id_val = number
        if row.closed:
            top += 1
        else:
            found.extend(row.panels)
            top = bottom
    return found


def _place(panels: Sequence[dashboard.Panel], top: int) -> int:
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel.grid_pos
        assert place is not None, f"panel {panel.title!r} has no size"
        place.x, place.y = next(
            (x, y)
            for y in range(top, top + 1000)
            for x in range(COLUMNS - place.w + 1)
            if taken.isdisjoint(_cells(x, y, place.w, place.h))
        )
        taken |= _cells(place.x, place.y, place.w, place.h)
    return 1 + max(y for _, y in taken)


def _cells(x: int, y: int, w: int, h: int) -> set[tuple[int, int]]:
    return {(column, line) for column in range(x, x + w) for line in range(y, y + h)}
