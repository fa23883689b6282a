"""The dashboard's JSON is what the code makes, and what Grafana can show."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.dashboard.build import as_json
from tests.observability import queries
from vinf_server.cli import build_parser

pytestmark = pytest.mark.fast

UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
WHOLE = queries.dashboard()
PANELS = list(queries.panels(WHOLE))
ROWS = [panel for panel in WHOLE["panels"] if panel["type"] == "row"]


def test_the_file_is_what_the_code_makes() -> None:
    assert queries.DASHBOARD.read_text() == as_json(), "make dashboard"


def test_grafanas_own_types_know_every_key() -> None:
    """What they do not know is lost when they read the file and write it again."""
    register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(WHOLE), cls=JSONEncoder))
    for panel in queries.panels(again):
        if not panel["fieldConfig"]["defaults"].get("custom", True):
            del panel["fieldConfig"]["defaults"]["custom"]  # heatmaps come back with an empty one
    assert again == WHOLE


def test_rows_are_those_of_the_plan_with_gpus_right_behind_the_overview() -> None:
    assert [row["title"] for row in ROWS] == [
        *("Overview", "Per GPU", "Traffic and queue", "Latency", "Throughput", "Delivery", "Faults", "gRPC"),
        "Process of the front",
    ]
    first = next(panel for panel in PANELS if panel["gridPos"]["y"] > ROWS[1]["gridPos"]["y"])
    assert first["title"] == "Frames a second per GPU"
    assert first["gridPos"]["y"] + first["gridPos"]["h"] <= 20, "it does not stand on the first screen"


def test_every_panel_and_row_has_a_number_of_its_own() -> None:
    numbers = [panel["id"] for panel in [*PANELS, *ROWS]]
    assert len(numbers) == len(set(numbers)) > 60
    assert len({panel["title"] for panel in PANELS}) == len(PANELS), "two panels of one name"


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    place = panel["gridPos"]
    columns = range(place["x"], place["x"] + place["w"])
    return set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))


def test_panels_lie_on_the_grid_and_not_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in WHOLE["panels"]:
        own = cells(panel)
        assert all(column < 24 for column, _ in own), panel["title"]
        assert taken.isdisjoint(own), f"{panel['title']} lies on another panel"
        taken |= own


def test_rows_have_no_holes() -> None:
    for row, following in itertools.pairwise([*ROWS, {"gridPos": {"y": math.inf}}]):
        top, bottom = row["gridPos"]["y"] + 1, following["gridPos"]["y"]
        inside = row["panels"] or [
            panel
            for panel in PANELS
            if top <= panel["gridPos"]["y"] and (bottom is None or panel["gridPos"]["y"] < bottom)
        ]
        covered = set().union(*(cells(panel) for panel in inside))
        lines = {line for _, line in covered}
        assert covered == set(itertools.product(range(24), lines)), row["title"]
        assert min(lines) == top, row["title"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    means, when_bad = panel["description"].split("\n\n**When it is bad:** ")
    assert len(means) > 10
    assert len(when_bad) > 10
    letters = [target["refId"] for target in panel["targets"]]
    assert letters
    assert len(set(letters)) == len(letters)
    for place in (panel, *panel["targets"]):
        assert place["datasource"] == {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    values = [step["value"] for step in steps]
    assert values[:1] in ([], [None])
    assert values[1:] == sorted(values[1:])


def test_what_descriptions_name_exists() -> None:
    titles = {panel["title"] for panel in PANELS}
    options = set(re.findall(r"--[a-z][a-z-]+", build_parser().format_help()))
    for panel in PANELS:
        text = panel["description"]
        named = set(re.findall(r"(?<!\w)'([A-Z][^']+)'", text))
        assert named <= titles, f"{panel['title']} sends to {named - titles}"
        wanted = set(re.findall(r"--[a-z][a-z-]+", text))
        assert wanted <= options, f"{panel['title']} names {wanted - options}"


def test_variables_are_those_of_the_plan() -> None:
    variables = {variable["name"]: variable for variable in WHOLE["templating"]["list"]}
    assert list(variables) == ["DS_PROMETHEUS", "model_name", "instance", "gpu", "agg_method"]
    for name in ("instance", "gpu"):
        assert variables[name]["multi"]
        assert variables[name]["includeAll"]
    assert [option["text"] for option in variables["agg_method"]["options"]] == ["avg", "0.50", "0.90", "0.99"]
    assert WHOLE["schemaVersion"] == 39
    used = set(re.findall(r"\$\{?([A-Za-z]\w*)", queries.DASHBOARD.read_text()))
    assert used == set(variables)
    assert WHOLE["uid"] == "vinf"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('sum by (le, rank) (rate(a_total{b="c_d", e=~"$f"}[5m]))', {"a_total"}),
        ("histogram_quantile(0.95, sum(rate(a_bucket[1m])) by (le)) > bool 1e6", {"a_bucket"}),
        ('0 * a{b="x{y}"} + on (c) group_left() max by (c) (label_replace(D / 2, "c", "$1", "U", "(.+)"))', {"a", "D"}),
        ("instance:a_b:rate5m > 0.5 and on (x) time() - f_seconds > 30", {"instance:a_b:rate5m", "f_seconds"}),
        ("a offset 5m unless ignoring (b) c", {"a", "c"}),
    ],
)
def test_metric_names_are_found(text: str, names: set[str]) -> None:
    assert queries.metric_names(text) == names
