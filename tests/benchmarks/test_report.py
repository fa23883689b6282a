"""What people and programs read."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.report import Report, as_json
from benchmarks.settings import Settings
from benchmarks.timing import Spread

pytestmark = pytest.mark.fast

ROWS = [{"frames": 16, "ratio": Spread(1.07, 1.0612, 1.1)}, {"frames": 2304, "ratio": None}]


def test_a_table_has_a_line_a_row_and_spreads_in_brackets() -> None:
    assert Report(title="Times", rows=list(ROWS), notes=["a note"]).table() == (
        "Times\n\nframes  ratio\n16      1.07 [1.06, 1.10]\n2304    -\n\na note"
    )


def test_a_single_row_is_read_downwards() -> None:
    assert Report(title="Times", rows=[ROWS[0]]).table() == "Times\n\nframes  16\nratio   1.07 [1.06, 1.10]"


def test_a_report_without_rows_is_its_notes() -> None:
    assert Report(title="Options", notes=["there are none"]).table() == "Options\n\nthere are none"


def test_json_is_one_line_with_machine_settings_and_spreads() -> None:
    line = as_json(["engine"], Settings(), torch.device("cpu"), [Report(title="Times", rows=list(ROWS))])
    assert "\n" not in line
    found = json.loads(line)
    assert found["machine"]["torch"] == torch.__version__
    assert found["settings"]["threads"] == 1
    assert found["reports"][0]["rows"][0]["ratio"] == {"median": 1.07, "low": 1.0612, "high": 1.1}
