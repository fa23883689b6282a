"""The whole dashboard: its variables, its marks on the time axis, its rows."""

from __future__ import annotations

import json

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from deploy.grafana.dashboard.layout import placed
from deploy.grafana.dashboard.panels import SOURCE
from deploy.grafana.dashboard.promql import here
from deploy.grafana.dashboard.rows import calls, delivery, faults, gpus, latency, overview, process, throughput, traffic

ROWS = (overview, gpus, traffic, latency, throughput, delivery, faults, calls, process)
"""From top to bottom."""

SCHEMA_VERSION = 39
"""Of Grafana 10.4 and newer. The builders write 36; what changed between the two is nothing that this uses."""


def built() -> dashboard.Dashboard:
    """Make the dashboard."""
    builder = (
        build.Dashboard("vinf")
        .uid("vinf")
        .description(
            "Long video from a diffusion model, made by a group of ranks. docs/dashboard.md explains each row."
        )
        .tags(["vinf"])
        .editable()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .timezone("browser")
        .refresh("10s")
        .variables([_source(), *_chosen(), _aggregation()])
        .annotations(
            [
                _mark(
                    "Ranks launched anew",
                    f"sum by (instance, cause) (changes({here('vinf_worker_restarts_total')}[2m])) > 0",
                    "red",
                ),
                _mark("Not ready or draining", f"{here('vinf_ready')} == 0", "orange"),
            ]
        )
    )
    whole = builder.build()
    whole.schema_version = SCHEMA_VERSION
    whole.panels = placed([module.row() for module in ROWS])
    return whole


def as_json() -> str:
    """Write the dashboard as Grafana reads it."""
    return json.dumps(built(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _source() -> build.DatasourceVariable:
    return build.DatasourceVariable("DS_PROMETHEUS").label("Prometheus").type("prometheus")


def _chosen() -> list[build.QueryVariable]:
    every = dashboard.VariableOption(text="All", value="$__all", selected=True)

    def variable(name: str, label: str, metric: str) -> build.QueryVariable:
        return (
            build.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query(f"label_values({metric}, {name})")
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
            .include_all(True)
            .current(every)
        )

    return [
        variable("model_name", "Model", "vinf_config_info").all_value(".*"),
        # All servers are those that were found, not ".*": other programs export process_* too.
        variable("instance", "Server", "vinf_build_info").multi(True),
        variable("gpu", "GPU", here("vinf_worker_up")).all_value(".*").multi(True),
    ]


def _aggregation() -> build.CustomVariable:
    """Choose what the graphs of the row Latency show; -1 stands for the mean, see `promql.aggregated`."""
    choices = {"avg": "-1", "0.50": "0.5", "0.90": "0.9", "0.99": "0.99"}
    options = [
        dashboard.VariableOption(text=text, value=value, selected=text == "0.90") for text, value in choices.items()
    ]
    return (
        build.CustomVariable("agg_method")
        .label("Latency as")
        .values(", ".join(f"{text} : {value}" for text, value in choices.items()))
        .options(options)
        .current(next(option for option in options if option.selected))
    )


def _mark(name: str, expr: str, colour: str) -> build.AnnotationQuery:
    return build.AnnotationQuery().name(name).datasource(SOURCE).expr(expr).icon_color(colour).enable(True).hide(False)
