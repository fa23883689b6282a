"""Every expression of the dashboard, the rules and the alerts, asked of a real Prometheus about a real server."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import pytest
from prometheus_client import Metric

from tests.observability import queries
from tests.observability.conftest import GPU_HOST, Observed
from tests.support.prometheus import Prometheus, QueryError, Series

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

WINDOW_S = 10
"""What rates are taken over: twenty scrapes."""

STEP_S = 0.5

OTHER_EXPORTERS = {"up"} | {
    f"DCGM_FI_{name}"
    for name in (
        *("DEV_GPU_UTIL", "DEV_FB_USED", "DEV_FB_FREE", "DEV_POWER_USAGE", "DEV_GPU_TEMP"),
        "PROF_PIPE_TENSOR_ACTIVE",
    )
}
"""What Prometheus itself and NVIDIA's exporter make."""

NOT_DRAWN: dict[str, str] = {}
"""Metrics of the server that nothing asks for, each with the reason."""

OF_IMAGES = "vinf_worker_image_cache_"
"""What the watched server counts nothing of: its model takes no images; tests/e2e/test_easyanimate.py sees some."""

PANELS = queries.of_panels(queries.dashboard())
MARKS = queries.of_annotations(queries.dashboard())
RULES, RECORDED = queries.of_rules()


def evaluate(observed: Observed, expression: queries.Expression, *, agg_method: str = "0.9") -> list[Series]:
    """Ask what Grafana would ask for the time of the work."""
    shown = observed.end - observed.start
    text = queries.filled_in(expression.text, window=f"{WINDOW_S}s", shown=f"{round(shown)}s", agg_method=agg_method)
    if expression.at_once:
        return observed.prometheus.query(text, at=observed.end)
    # Counted from the end, which is the moment that the last thing was seen.
    start = observed.end - STEP_S * math.ceil(shown / STEP_S)
    return observed.prometheus.query_range(text, start, observed.end, step=STEP_S)


@pytest.mark.parametrize("expression", PANELS, ids=str)
def test_every_panel_has_data(observed: Observed, expression: queries.Expression) -> None:
    found = [series for series in evaluate(observed, expression) if series.values]
    if OF_IMAGES in expression.text:
        assert not found, "a share of no images"
        return
    assert found, f"no data: {expression.text}"
    for label in re.findall(r"{{(\w+)}}", expression.legend):
        assert all(label in series.labels for series in found), f"{label!r} of the legend is none of its series'"


@pytest.mark.parametrize("agg_method", ["-1", "0.5", "0.9", "0.99"])
def test_latency_can_be_shown_as_chosen(observed: Observed, agg_method: str) -> None:
    chosen = [expression for expression in PANELS if "$agg_method" in expression.text]
    assert len(chosen) == 3
    for expression in chosen:
        assert any(series.values for series in evaluate(observed, expression, agg_method=agg_method)), str(expression)


def test_marks_show_what_happened(observed: Observed) -> None:
    """The rank that was killed, and the server that was not ready until it was back."""
    for mark in MARKS:
        assert evaluate(observed, mark), mark.text


def test_rules_are_evaluated(observed: Observed) -> None:
    groups = observed.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(RULES)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    for name in RECORDED:
        assert observed.prometheus.query(f"last_over_time({name}[5m])"), f"{name} has no data"


def test_variables_offer_values(observed: Observed) -> None:
    offered = {}
    for variable in queries.dashboard()["templating"]["list"]:
        if variable["type"] != "query":
            continue
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
        assert match, variable["query"]
        assert match[2] == variable["name"]
        selector = queries.filled_in(match[1], window="1m", shown="1h")
        found = observed.prometheus.get("series", {"match[]": selector})
        offered[variable["name"]] = {series[match[2]] for series in found}
    assert offered["model_name"] == {"sprites"}
    assert offered["gpu"] == {"cpu"}
    assert len(offered["instance"]) == 1


def test_choices_narrow_every_panel(observed: Observed) -> None:
    """Whatever metric has the label of a variable is selected by it."""
    labels: dict[str, set[str]] = {}
    for family in queries.families(observed.page + GPU_HOST.read_text()):
        labels.setdefault(family.name, {"instance"}).update(*(sample.labels for sample in family.samples))
    names = queries.exported(queries.families(observed.page))
    checked = 0
    for expression in PANELS:
        for name, matchers in re.findall(r"([a-z_]+)(?:{([^}]*)})?", expression.text):
            has = labels[names[name].removesuffix("_total")] if name in names else set()
            for variable in has & {"instance", "model_name", "gpu"}:
                assert f'{variable}=~"${variable}"' in matchers, f"{expression}: {name} is not of the chosen {variable}"
                checked += 1
    assert checked > len(PANELS)


def test_a_wrong_expression_is_refused(observed: Observed) -> None:
    with pytest.raises(QueryError, match="parse error"):
        observed.prometheus.query("sum(vinf_ready")


def problems(metrics: Iterable[Metric]) -> Iterator[str]:
    """Tell what the dashboard or the rules ask for and a server has not, and what it has and nothing asks for."""
    names = queries.exported(metrics)
    asking = [*PANELS, *MARKS, *RULES]
    yield from (f"{text} is not exported" for text in queries.unknown(asking, {*names, *RECORDED, *OTHER_EXPORTERS}))
    yield from (
        f"{metric} is exported and nothing asks for it"
        for metric in sorted(queries.unused(asking, names) - NOT_DRAWN.keys())
        if metric.startswith(("vinf_", "grpc_"))
    )
    yield from (f"{metric} is not exported" for metric in sorted(NOT_DRAWN.keys() - set(names.values())))


def test_what_is_asked_for_is_exported_and_what_is_exported_is_asked_for(observed: Observed) -> None:
    assert list(problems(queries.families(observed.page))) == []


def test_a_metric_that_is_missing_is_noticed(observed: Observed) -> None:
    """Each in turn."""
    whole = queries.families(observed.page)
    own = [family for family in whole if family.name.startswith(("vinf_", "grpc_"))]
    assert len(own) > 50
    for missing in own:
        told = list(problems(family for family in whole if family is not missing))
        assert any(f" {missing.name}" in f" {problem}" for problem in told), f"nobody misses {missing.name}"


def test_a_new_metric_is_noticed(observed: Observed) -> None:
    page = observed.page + "# HELP vinf_new_total New.\n# TYPE vinf_new_total counter\nvinf_new_total 0\n"
    assert list(problems(queries.families(page))) == ["vinf_new_total is exported and nothing asks for it"]


def test_the_made_up_gpu_page_has_only_what_is_exported(observed: Observed) -> None:
    made_up, real = (set(queries.exported(queries.families(page))) for page in (GPU_HOST.read_text(), observed.page))
    assert made_up <= real | OTHER_EXPORTERS


def test_the_first_error_of_a_number_counts(observed: Observed) -> None:
    """Also where its series begins with it."""
    errors = next(expression for expression in PANELS if expression.place == "XID errors-A")
    (series,) = evaluate(observed, errors)
    assert [round(value) for value in series.values] == [2]


def test_prometheus_says_what_it_means(observed: Observed) -> None:
    """NVIDIA's exporter before the server's own look at the driver, under the server's names."""
    prometheus: Prometheus = observed.prometheus
    power = next(expression for expression in PANELS if expression.place == "Power-A")
    text = queries.filled_in(power.text, window="1m", shown="1h")
    (series,) = prometheus.query(text, at=observed.end)
    assert series.values == [615.2]
    assert series.labels["gpu"] == "cuda:0"
    (series,) = prometheus.query(text.replace("DCGM_FI_DEV_POWER_USAGE", "absent_metric"), at=observed.end)
    assert series.values == [612.4]
