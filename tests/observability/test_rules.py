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
    "VinfNotReady": [
        *(("(vinf_ready) == 0", "(vinf_ready) == 2"), ('up{job="vinf"}) == 0', "vinf_ready) == 0")),
        *(("for", "0s"), ("for", "8m")),
    ],
    "VinfRealtimeFactorLow": [
        *(("< 1 ", "< 0.4 "), ("< 1 ", "< 1.1 "), ('{live="yes"}', ""), ("for", "0s"), ("for", "15m")),
        ("and on (instance, model_name) max_over_time(vinf_generations_running[1m]) > 0", ""),
    ],
    "VinfTimeToFirstFrameHigh": [("> 60", "> 80"), ("> 60", "> 59"), ("for", "0s"), ("for", "30m")],
    "VinfErrorRatioHigh": [("> 0.01", "> 0.021"), ("> 0.01", "> 0.009"), ("for", "0s"), ("for", "30m")],
    "VinfQueueNearFull": [("> 0.8", "> 0.82"), ("> 0.8", "> 0.79"), ("for", "0s"), ("for", "15m")],
    "VinfWorkerFlapping": [("> 3.5", "> 4.5"), ("> 3.5", "> 2.5")],
    "VinfHeartbeatStale": [
        *((") > 30", ") > 61"), (") > 30", ") > 29")),
        ("and on (instance) sum by (instance) (vinf_generations_running) > 0", ""),
    ],
    "VinfFramesDropped": [
        *(('{reason="FRAME_EVICTED"}', '{reason="SKIPPED"}'), ('{reason="FRAME_EVICTED"}', "")),
        ('vinf_left_out_frames_total{reason="FRAME_EVICTED"}', 'vinf_spool_dropped_frames_total{reason="overflow"}'),
    ],
    "VinfGpuMemoryNearLimit": [("> 0.95", "> 0.97"), ("> 0.95", "> 0.94"), ("for", "0s"), ("for", "10m")],
}
"""What an alert may not become without a test that fails: pieces of its expression, or its time."""


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
@pytest.mark.parametrize(("panel", "labels"), [("Busy share, mean", "{}"), ("Rank time by stage", '{stage="denoise"}')])
def test_ranks_of_an_earlier_group_are_in_no_mean(panel: str, labels: str, tmp_path: Path) -> None:
    """Their counters stay, and stand still."""
    (text,) = (found.text for found in queries.of_panels(queries.dashboard()) if found.place == f"{panel}-A")
    here, gone = (f'instance="a", rank="{rank}", gpu="cuda:{rank}"' for rank in (0, 4))
    case = {
        "interval": "1m",
        "input_series": [
            {"series": f"vinf_worker_up{{{here}}}", "values": "1x20"},
            {"series": f'vinf_worker_busy_seconds_total{{{here}, stage="denoise"}}', "values": "0+30x20"},
            {"series": f'vinf_worker_busy_seconds_total{{{gone}, stage="denoise"}}', "values": "100x20"},
        ],
        "promql_expr_test": [
            {
                "expr": queries.filled_in(text, window="5m", shown="1h"),
                "eval_time": "10m",
                "exp_samples": [{"labels": labels, "value": 0.5}],
            }
        ],
    }
    path = tmp_path / "cases.yml"
    path.write_text(yaml.safe_dump({"tests": [case]}))
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
def test_alerts_fire_and_do_not() -> None:
    done = promtool("test", "rules", *sorted((DEPLOYED / "tests").glob("*.yml")))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
@pytest.mark.parametrize("turn", range(max(map(len, MOVED.values()))))
def test_a_limit_that_moves_is_noticed(turn: int, tmp_path: Path) -> None:
    """One change of each alert at a time."""
    shutil.copytree(DEPLOYED, tmp_path / "prometheus")
    path = tmp_path / "prometheus/rules/alerts.yml"
    whole = yaml.safe_load(path.read_text())
    changed = set()
    for alert in whole["groups"][0]["rules"]:
        for old, new in MOVED[alert["alert"]][turn : turn + 1]:
            if old == "for":
                alert["for"] = new
            else:
                assert old in alert["expr"], f"{alert['alert']} has no {old}"
                alert["expr"] = alert["expr"].replace(old, new)
            changed.add(alert["alert"])
    path.write_text(yaml.safe_dump(whole))
    done = promtool("test", "rules", tmp_path / "prometheus/tests/alerts.yml")
    noticed = {name for name in changed if f"alertname: {name}," in done.stdout + done.stderr}
    assert noticed == changed, f"nothing notices the changed {changed - noticed}:\n{done.stdout}{done.stderr}"


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
