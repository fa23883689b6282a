"""The pictures of the dashboard: drawn from a real Prometheus, in Grafana's words for numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from scripts.dashboard_pictures import points, rows
from scripts.panel_drawing import draw_row
from scripts.panel_units import written
from tests.observability import queries
from tests.observability.conftest import Observed
from tests.support.prometheus import ROOT

ROWS = [panel["title"] for panel in queries.dashboard()["panels"] if panel["type"] == "row"]


def file_name(row: str) -> str:
    return f"dashboard-{row.lower().replace(' ', '-')}.png"


@pytest.mark.fast
@pytest.mark.parametrize("row", ROWS)
def test_the_page_shows_every_row(row: str) -> None:
    page = (ROOT / "docs/dashboard.md").read_text()
    assert f"\n### {row}\n\n![{row}](images/{file_name(row)})\n" in page
    assert (ROOT / "docs/images" / file_name(row)).exists()


@pytest.mark.process
@pytest.mark.timeout(300)
def test_panels_of_every_kind_can_be_drawn(observed: Observed, tmp_path: Path) -> None:
    found = dict(rows(observed.prometheus, observed.start, observed.end))
    assert list(found) == ROWS
    kinds = set()
    for title in ("Overview", "Latency", "Faults"):
        kinds |= {drawn.panel["type"] for drawn in found[title]}
        draw_row(title, found[title], points(observed.start, observed.end)).savefig(tmp_path / "row.png")
        with Image.open(tmp_path / "row.png") as picture:
            assert picture.width == 1440
            assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 100, "nothing is drawn"
    assert kinds == {drawn.panel["type"] for panels in found.values() for drawn in panels}


@pytest.mark.fast
@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0417, "s", "41.7 ms"),
        (0, "s", "0 s"),
        (90, "s", "1.5 min"),
        (7200, "s", "2 hour"),
        (0.125, "percentunit", "12.5 %"),
        (1536, "bytes", "1.5 KiB"),
        (2_500_000, "Bps", "2.5 MB/s"),
        (12, "none", "12"),
        (1234.5, "none", "1234"),
        (615.2, "watt", "615 W"),
        (0.00001, "none", "1e-05"),
    ],
)
def test_numbers_are_written_as_grafana_does(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text
