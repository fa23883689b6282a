"""A seed is a plan."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.chaos.plan import COSTS_THE_GROUP, LOSSES_BETWEEN_FRONTS, network_faults, process_faults

pytestmark = pytest.mark.fast


def test_a_seed_repeats_its_faults():
    for make in (network_faults, lambda seed: process_faults(seed, restart_front=True)):
        assert list(islice(make(7), 50)) == list(islice(make(7), 50))
        assert list(islice(make(7), 50)) != list(islice(make(8), 50))


@pytest.mark.parametrize("restart_front", [True, False])
def test_no_front_loses_its_group_so_often_that_it_gives_up(restart_front):
    for seed in range(20):
        losses = 0
        for fault in islice(process_faults(seed, restart_front=restart_front), 200):
            losses = 0 if fault.kind == "front-kill" else losses + (fault.kind in COSTS_THE_GROUP)
            assert losses <= LOSSES_BETWEEN_FRONTS
            assert restart_front or fault.kind != "front-kill"


def test_every_kind_comes():
    kinds = {fault.kind for fault in islice(process_faults(1, restart_front=True), 200)}
    assert kinds >= {"rank-kill", "rank-stop", "rank-pause", "agent-kill", "front-kill", "front-pause", "agent-pause"}
    kinds = {fault.kind for fault in islice(network_faults(1), 200)}
    assert kinds == {"delay", "slow", "crumbs", "reset", "black-hole", "flood"}
