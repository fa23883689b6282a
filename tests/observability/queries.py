"""What the dashboard and the rules ask for, and whether the server exports it.

No library at hand parses PromQL from Python. Prometheus itself says whether an expression is well formed; here its
metric names are found by taking away all that is none: strings, matchers, ranges, labels behind `by` and the like, and
words before a bracket, which are functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy/grafana/vinf.json"
RULES = ROOT / "deploy/prometheus/rules"

_KEYWORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}


@dataclass(frozen=True, slots=True)
class Expression:
    """One query, and where it stands.

    Attributes:
        place: for messages.
        text: PromQL; of a panel with Grafana's variables in it.
        legend: what names its series, with ``{{label}}``.
        at_once: evaluated at one time, not over a range of them.
    """

    place: str
    text: str
    legend: str = ""
    at_once: bool = False

    def __str__(self) -> str:
        return self.place


def dashboard() -> dict[str, Any]:
    """Read the committed dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every panel, rows left out, those inside closed rows with the others."""
    for panel in whole["panels"]:
        if panel["type"] != "row":
            yield panel
        yield from panel.get("panels", ())


def of_panels(whole: dict[str, Any]) -> list[Expression]:
    """Find the expressions of all panels."""
    return [
        Expression(
            f"{panel['title']}-{target['refId']}", target["expr"], target["legendFormat"], bool(target.get("instant"))
        )
        for panel in panels(whole)
        for target in panel["targets"]
    ]


def of_annotations(whole: dict[str, Any]) -> list[Expression]:
    """Find the expressions of the marks on the time axis."""
    return [Expression(mark["name"], mark["expr"]) for mark in whole["annotations"]["list"]]


def of_rules(folder: Path = RULES) -> tuple[list[Expression], set[str]]:
    """Find the expressions of all rules, and the names that they record."""
    rules = [
        rule
        for path in sorted(folder.glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]
    expressions = [Expression(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules]
    return expressions, {rule["record"] for rule in rules if "record" in rule}


def filled_in(text: str, *, window: str, shown: str, agg_method: str = "0.9") -> str:
    """Put values in the place of Grafana's variables; every choice is All."""
    values = {"__rate_interval": window, "__range": shown, "agg_method": agg_method}
    for name in ("model_name", "instance", "gpu"):
        values[name] = ".*"
    for name, value in values.items():
        text = re.sub(rf"\${name}\b|\${{{name}(?::\w+)?}}", value, text)
    left = re.findall(r"\$[A-Za-z_{]\w*", text)
    assert not left, f"variables that Grafana does not have here: {left}"
    return text


def metric_names(text: str) -> set[str]:
    """Find the names of the metrics in an expression."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    text = re.sub(r"\{[^{}]*\}|\[[^\[\]]*\]", " ", text)
    text = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)", " ", text)
    words = re.findall(r"(?<![\w:$.])([A-Za-z_:][\w:]*)\b(?!\s*\()", text)
    return {word for word in words if word not in _KEYWORDS}


def families(page: str) -> list[Metric]:
    """Read a page of metrics; those without a series are there, too, by their HELP and TYPE."""
    return list(text_string_to_metric_families(page))


def exported(metrics: Iterable[Metric]) -> dict[str, str]:
    """Tell the names that can be asked for, each with that of its metric."""
    names: dict[str, str] = {}
    for family in metrics:
        for suffix in _SUFFIXES.get(family.type, ("",)):
            declared = f"{family.name}{suffix}"
            names[declared] = f"{family.name}_total" if family.type == "counter" else family.name
    return names


def unknown(expressions: Iterable[Expression], known: Iterable[str]) -> list[str]:
    """Tell of every metric that is asked for and not known."""
    known = set(known)
    return [
        f"{expression}: {name}" for expression in expressions for name in sorted(metric_names(expression.text) - known)
    ]


def unused(expressions: Iterable[Expression], names: dict[str, str]) -> set[str]:
    """Find the exported metrics that nothing asks for."""
    asked = set().union(*(metric_names(expression.text) for expression in expressions))
    return set(names.values()) - {metric for name, metric in names.items() if name in asked}
