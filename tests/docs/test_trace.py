"""The trace in the documents is one of two ranks, and the picture beside it is drawn from such a file."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.blocks import ROOT

pytestmark = pytest.mark.fast

TRACE = ROOT / "docs" / "traces" / "two-ranks.json.gz"


def test_the_picture_is_drawn_from_the_trace(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "trace_picture.py"))
    bars = script["read"](TRACE)
    assert script["ranks_of"](bars) == ["rank 0", "rank 1"]
    for rank in ("rank 0", "rank 1"):
        lanes = {bar.lane for bar in bars if bar.process == rank}
        assert {"compute", "communicate", "transfer", "wait", "decode", "deliver"} <= lanes
    script["picture"](bars, tmp_path / "trace.png")
    with Image.open(tmp_path / "trace.png") as drawn, Image.open(ROOT / "docs" / "images" / "trace.png") as committed:
        assert drawn.size == committed.size
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 6, "nothing is drawn"
