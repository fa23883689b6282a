"""The expressions of docs/metrics.md are PromQL."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT


@pytest.mark.process
def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    table = (ROOT / "docs" / "metrics.md").read_text().split("| question | expression |", 1)[1].split("\n\n", 1)[0]
    expressions = re.findall(r"^\| .* \| `(.*)` \|$", table, re.MULTILINE)
    assert len(expressions) == len(table.splitlines()) - 2, "every row has one"
    rules = [{"record": f"test:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    # YAML reads JSON.
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "docs", "rules": rules}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", "rules.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr + checked.stdout
    assert f"{len(expressions)} rules found" in checked.stdout
