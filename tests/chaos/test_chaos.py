"""Less than a minute of chaos; `make chaos` makes five."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.run import ChaosPlan, run_chaos
from tests.chaos.specs import QUICK

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


def test_nothing_is_lost_in_a_minute_of_chaos():
    plan = ChaosPlan(seconds=30, seed=11, people=3, specs=QUICK)
    report = asyncio.run(run_chaos(plan))
    assert report.violations == [], str(report)
    kinds = {fault.kind for fault in report.faults}
    assert kinds & {"rank-kill", "rank-stop", "agent-kill", "front-kill"}, str(report)
    assert kinds & {"delay", "slow", "crumbs", "reset", "black-hole"}, str(report)
    assert report.generations["succeeded"] >= 3, str(report)
    assert report.verdict.frames > 20
