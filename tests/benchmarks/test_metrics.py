"""What `vinf bench metrics` counts; what it times is for people to read."""

from __future__ import annotations

import json

import pytest
import torch
from prometheus_client import CollectorRegistry, Gauge, Histogram

from benchmarks.cli import main
from benchmarks.serving.metrics import Front, count_updates, counted_updates
from benchmarks.subject import count_calls
from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_core.events import StageClock
from vinf_core.types import Stage
from vinf_server.front.metrics.ranks import STAGES


@pytest.mark.fast
def test_calls_are_counted_and_do_what_they_did() -> None:
    clock = StageClock(torch.device("cpu"))
    calls = count_calls(clock, ("measure", "settle"))
    for _ in range(3):
        with clock.measure(Stage.DENOISE):
            pass
    clock.settle()
    assert calls == {"measure": 3, "settle": 1}
    assert clock.seconds[Stage.DENOISE] > 0


@pytest.mark.fast
def test_updates_are_counted_and_done() -> None:
    registry = CollectorRegistry()
    gauge, histogram = Gauge("g", "g", ("a",), registry=registry), Histogram("h", "h", registry=registry)

    def work() -> None:
        gauge.labels("x").set(3)
        gauge.labels("x").inc()
        histogram.observe(1)

    with counted_updates() as found:
        work()
    assert found == ["labels", "set", "labels", "inc", "observe"]
    assert registry.get_sample_value("g", {"a": "x"}) == 4
    assert count_updates(work) == 3


@pytest.mark.fast
def test_a_frame_costs_few_updates_and_a_beat_one_for_each_number() -> None:
    beat = link_pb2.BeatRequest(device="cpu", step_count=1, step_seconds=1.0, busy_seconds=dict.fromkeys(STAGES, 1.0))
    front = Front([beat])
    assert count_updates(front.step) == 1
    assert count_updates(front.store) == 3
    assert count_updates(front.deliver) == 5
    # Frames, steps, hits and misses of two caches; the stages; memory used, in all and at its peak; when the beat came,
    # and that it did.
    assert count_updates(front.beat) == 6 + len(STAGES) + 3 + 2


@pytest.mark.process
def test_calls_times_cost_over_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "--frames", "8", "--steps", "2", "--repeats", "1", "--json"]) == 0, capsys.readouterr().err
    (line,) = capsys.readouterr().out.splitlines()
    steps, frames = json.loads(line)["reports"]
    step_us = float(steps["title"].rpartition(" takes ")[2].removesuffix(" s")) * 1e6
    parts = {row["what"]: row for row in steps["rows"] if row["what"] != "all of it"}
    for row in parts.values():
        assert row["us a step"] == pytest.approx(row["calls a step"] * row["us a call"]["median"])
        assert row["% of a step"] == pytest.approx(100 * row["us a step"] / step_us, rel=0.02)
    # Two exchanges and more for every module that looks across frames, and the step itself.
    assert parts["StageClock.measure"]["calls a step"] > 64
    assert parts["StageClock.settle"]["calls a step"] == parts["tell the step"]["calls a step"] == 1
    for where, wanted in (("rank", 0.5), ("front", None)):
        (total,) = (row for row in steps["rows"] if (row["where"], row["what"]) == (where, "all of it"))
        summed = sum(row["us a step"] for row in parts.values() if row["where"] == where)
        assert total["us a step"] == pytest.approx(summed)
        assert total["wanted"] == wanted
    assert [row["updates"] for row in frames["rows"]] == [3, 5]
