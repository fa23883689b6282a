"""The summary tells how long each fault kept people waiting."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.chaos.checker import Verdict
from tests.chaos.faults import FaultLog, find_recoveries
from tests.chaos.history import GenerationLog, History, Receipt
from tests.chaos.report import ChaosReport
from tests.chaos.resources import Resources, excess

pytestmark = pytest.mark.fast

BASELINE = Resources(resident_bytes=50 << 20, cached_bytes=0, descriptors=20, threads=10, processes=3)


def history(*receipts):
    whole = History()
    whole.created("g", GenerationLog("anna", "ball", submit_time=0))
    whole.reader("anna", "g").open(0).receipts.extend(Receipt(index, "", time) for index, time in receipts)
    return whole


def test_recovery_ends_with_the_first_frame_made_after_the_fault():
    faults = [
        FaultLog("rank-kill", time=10.0, generation_id="g", frames_before=2),
        FaultLog("rank-kill", time=30.0, generation_id="g", frames_before=9),
        FaultLog("reset", time=10.0),
    ]
    find_recoveries(faults, history((0, 8.0), (1, 11.0), (2, 17.0), (3, 18.0)))
    assert [fault.recovery_s for fault in faults] == [7.0, None, None]


def report(**changes):
    faults = [
        FaultLog("rank-kill", 1.0, "g", recovery_s=4.0, red_s=0.1),
        FaultLog("rank-kill", 9.0, "g", recovery_s=8.0, red_s=0.3),
        FaultLog("reset", 2.0),
    ]
    values = {
        "seed": 5,
        "ranks": 2,
        "seconds": 60.0,
        "faults": faults,
        "expected_losses": 2,
        "verdict": Verdict(frames=100),
        "generations": Counter(succeeded=9),
        "habits": Counter(follows=9),
        "broken_calls": Counter(),
        "flood": Counter(),
        "baseline": BASELINE,
        "final": BASELINE,
    }
    return ChaosReport(**(values | changes))


def test_summary_names_median_and_worst():
    text = str(report())
    assert "rank-kill        2         2       6.0       8.0    0.30" in text
    assert "reset            1         0         -         -       -" in text
    assert text.endswith("all invariants hold")
    assert json.loads(json.dumps(report().as_dict()))["recovery_s"]["rank-kill"] == {
        "count": 2,
        "median": 6.0,
        "worst": 8.0,
    }


def test_summary_shows_violations():
    text = str(report(verdict=Verdict(lost=1, violations=["anna, g: lost frames [2]"])))
    assert "VIOLATION: anna, g: lost frames [2]" in text
    assert text.endswith("1 violations")


def test_cached_frames_are_no_leak():
    grown = Resources(**(BASELINE.as_dict() | {"resident_bytes": 100 << 20, "cached_bytes": 50 << 20}))
    assert excess(grown, BASELINE) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"resident_bytes": 100 << 20}, "resident"),
        ({"descriptors": 40}, "descriptors"),
        ({"threads": 30}, "threads"),
        ({"processes": 4}, "processes"),
        ({"processes": 2}, "processes"),
    ],
)
def test_what_is_not_given_back_is_named(changes, word):
    assert excess(BASELINE, BASELINE) == []
    (found,) = excess(Resources(**(BASELINE.as_dict() | changes)), BASELINE)
    assert word in found
