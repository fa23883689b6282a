"""The rules and the configuration of Prometheus, and what is said about them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability import queries
from tests.support.prometheus import DEPLOYED, ROOT, is_installed

ALERTS = [
    rule for group in yaml.safe_load((queries.RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
TESTS = [
    test for path in sorted((DEPLOYED / "tests").glob("*.yml")) for test in yaml.safe_load(path.read_text())["tests"]
]

MOVED = {
    "(vinf_ready) == 0": ("(vinf_ready) == 2",),
    'up{job="vinf"}) == 0': ('up{job="vinf"}) == 2',),
    'vinf_realtime_factor{live="yes"}) < 1': (
        *('vinf_realtime_factor{live="yes"}) < 0.4', 'vinf_realtime_factor{live="yes"}) < 1.1'),
        "vinf_realtime_factor) < 1",
    ),
    "and on (instance, model_name) max_over_time(vinf_generations_running[1m]) > 0": ("",),
    "p95_rate10m > 60": ("p95_rate10m > 80", "p95_rate10m > 59"),
    "> 0.01": ("> 0.021", "> 0.009"),
    "> 0.8": ("> 0.82", "> 0.79"),
    "> 3.5": ("> 4.5", "> 2.5"),
    ") > 30": (") > 61", ") > 29"),
    "and on (instance) sum by (instance) (vinf_generations_running) > 0": ("",),
    '{reason!="SKIPPED"}': ('{reason="SKIPPED"}', ""),
    '{reason="overflow"}': ('{reason="released"}', ""),
    "> 0.95": ("> 0.97", "> 0.94"),
    "for: 5m": ("for: 0s", "for: 8m"),
    "for: 10m": ("for: 0s", "for: 30m"),
}
"""Limits of the alerts, and what they may not become without a test that fails."""


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if not is_installed():
        pytest.skip("needs prometheus and promtool: apt-get install prometheus")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.process
def test_configuration_and_rules_are_well_formed() -> None:
    for what, path in (("config", DEPLOYED / "prometheus.yml"), ("rules", queries.RULES / "alerts.yml")):
        done = promtool("check", what, path)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
def test_alerts_fire_and_do_not() -> None:
    done = promtool("test", "rules", *sorted((DEPLOYED / "tests").glob("*.yml")))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
def test_a_limit_that_moves_is_noticed(tmp_path: Path) -> None:
    """Each in turn, up and down."""
    text = (queries.RULES / "alerts.yml").read_text()
    shutil.copytree(DEPLOYED, tmp_path / "prometheus")
    for limit, others in MOVED.items():
        for other in others:
            moved = text.replace(limit, other)
            assert moved != text, f"no alert has the limit {limit}"
            (tmp_path / "prometheus/rules/alerts.yml").write_text(moved)
            done = promtool("test", "rules", tmp_path / "prometheus/tests/alerts.yml")
            assert done.returncode != 0, f"nothing notices that {limit!r} became {other!r}"


@pytest.mark.fast
@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_tried_explained_and_has_a_runbook(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    tried = [case for test in TESTS for case in test.get("alert_rule_test", ()) if case["alertname"] == name]
    assert any(case["exp_alerts"] for case in tried), f"no test has {name} fire"
    assert any(not case["exp_alerts"] for case in tried), f"no test has {name} keep still"
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert {"summary", "description", "runbook_url"} == alert["annotations"].keys()
    page, anchor = alert["annotations"]["runbook_url"].split("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}


@pytest.mark.fast
def test_every_recorded_name_is_tried() -> None:
    _, recorded = queries.of_rules()
    tried = " ".join(case["expr"] for test in TESTS for case in test.get("promql_expr_test", ()))
    assert {name for name in recorded if name not in tried} == set()
