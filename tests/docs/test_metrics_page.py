"""docs/metrics.md lists what the front exports, all of it and nothing else."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from tests.docs.blocks import ROOT
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.generations import (
    FINISHED_REASONS,
    REJECTION_REASONS,
    STAGES,
    SUSPENSION_REASONS,
)
from vinf_server.front.metrics.ranks import RESTART_CAUSES
from vinf_server.front.metrics.ranks import STAGES as RANK_STAGES

pytestmark = pytest.mark.fast

PAGE = (ROOT / "docs" / "metrics.md").read_text()


def listed() -> dict[str, list[str]]:
    """The cells of every row, by the metric's name."""
    found = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0].startswith("`"):
            name = cells[0].strip("`")
            assert name not in found, f"{name} is listed twice"
            found[name] = cells
    return found


def exported() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and labels, by the name that is queried."""
    registry = CollectorRegistry()
    Metrics(registry)
    found = {}
    for collector in registry._collector_to_names:
        for family in collector.collect():
            if isinstance(collector, MetricWrapperBase):
                labels = collector._labelnames
            else:
                labels = tuple(sorted({name for sample in family.samples for name in sample.labels}))
            found[family.name + "_total" * (family.type == "counter")] = (family.type, labels)
    return found


def test_every_metric_is_listed_with_its_type_and_labels() -> None:
    told = {name: (cells[1], tuple(re.findall(r"`(\w+)`", cells[2]))) for name, cells in listed().items()}
    assert told == exported()


def test_units_are_those_of_the_names() -> None:
    for name, cells in listed().items():
        for unit in ("seconds", "bytes", "watts", "joules", "frames"):
            if name.removesuffix("_total").endswith(f"_{unit}"):
                assert cells[3] == unit, f"{name} is in {cells[3]!r}"
        if cells[1] == "histogram":
            assert cells[3] in ("seconds", "frames"), name
        assert cells[4].endswith("."), f"{name} means {cells[4]!r}"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("vinf_generations_finished_total", FINISHED_REASONS),
        ("vinf_generations_suspended", SUSPENSION_REASONS),
        ("vinf_admission_rejections_total", REJECTION_REASONS),
        ("vinf_generation_stage_duration_seconds", STAGES),
        ("vinf_worker_busy_seconds_total", RANK_STAGES),
        ("vinf_worker_restarts_total", RESTART_CAUSES),
    ],
)
def test_values_of_labels_are_listed(name: str, values: tuple[str, ...]) -> None:
    assert set(values) <= set(re.findall(r"`(\w+)`", listed()[name][4]))


def test_expressions_name_metrics_that_exist() -> None:
    known = set(exported())
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "count", "sum")}
    named = set(re.findall(r"\b(?:vinf|grpc_server)_[a-z0-9_]*[a-z0-9]\b", PAGE))
    assert named - known <= {"vinf_worker_memory", "vinf_gpu_memory"}, "the beginnings of several names"
