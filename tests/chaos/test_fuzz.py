"""A few thousand mutated requests against a real server; `make fuzz` sends a hundred thousand."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.front import SCRIPTED_RANKS, ChaosFront
from tests.chaos.fuzz import fuzz

pytestmark = pytest.mark.process


@pytest.fixture
def scripted_front():
    front = ChaosFront(*SCRIPTED_RANKS)
    front.start()
    yield front
    front.end_everything()
    front.remove()


def test_mutated_requests_get_documented_answers_and_do_no_harm(scripted_front):
    async def run():
        await scripted_front.wait_ready()
        return await fuzz(scripted_front, requests=6_000, seed=7)

    report = asyncio.run(run())
    assert report.violations == [], str(report)
    assert report.created > 50
    assert sum(sum(counts.values()) for counts in report.statuses.values()) == 6_000
    for name, counts in report.statuses.items():
        assert len(counts) >= 2, f"{name}: always the same answer, {counts}"
