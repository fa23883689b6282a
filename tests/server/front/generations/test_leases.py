"""Generations that nobody asks for, and those that are late."""

from types import SimpleNamespace

import pytest
from google.rpc import code_pb2

from vinf_server.front.generations.generation import Terms
from vinf_server.front.generations.leases import Leases

pytestmark = pytest.mark.fast


class Setting:
    def __init__(self, **terms):
        self.now = 1000.0
        self.wall_ns = 5 * 10**18
        self.ended = []
        self.leases = Leases(
            lambda generation, failure: self.ended.append(failure),
            clock=lambda: self.now,
            wall_clock_ns=lambda: self.wall_ns,
        )
        self.generation = SimpleNamespace(generation_id="g", is_terminal=False, terms=Terms(**terms))
        self.leases.add(self.generation)

    def after(self, seconds):
        self.now += seconds
        self.leases.check()
        return [failure.reason for failure in self.ended]


def test_a_lease_runs_out_once():
    setting = Setting(lease_s=10.0)
    assert setting.after(9.9) == []
    assert setting.after(0.2) == ["LEASE_EXPIRED"]
    assert setting.ended[0].code == code_pb2.CANCELLED
    assert setting.after(100) == ["LEASE_EXPIRED"]


def test_asking_renews_it():
    setting = Setting(lease_s=10.0)
    for _ in range(5):
        assert setting.after(9) == []
        setting.leases.touch("g")
    assert setting.after(11) == ["LEASE_EXPIRED"]


def test_an_open_stream_holds_it_and_its_end_begins_a_new_lease():
    setting = Setting(lease_s=10.0)
    with setting.leases.holding("g"):
        assert setting.after(1000) == []
        with setting.leases.holding("g"):
            pass
        assert setting.after(1000) == []
    assert setting.after(9) == []
    assert setting.after(2) == ["LEASE_EXPIRED"]


def test_case_34_a_stream_whose_client_takes_nothing_is_no_reason_to_go_on():
    setting = Setting(lease_s=10.0)
    with setting.leases.holding("g") as stream:
        for _ in range(5):
            with stream.giving():
                assert setting.after(9) == []
        with setting.leases.holding("g") as other, stream.giving():
            assert setting.after(100) == [], "somebody else reads"
            with other.giving():
                assert setting.after(9) == []
        assert setting.after(100) == [], "there is nothing to take"
        with stream.giving():
            assert setting.after(11) == ["LEASE_EXPIRED"]


def test_a_detached_one_needs_nobody():
    assert Setting(lease_s=None).after(10**6) == []


def test_a_deadline_goes_by_the_wall_clock_and_counts_for_detached_ones_too():
    setting = Setting(lease_s=None, deadline_ns=5 * 10**18 + 10**9)
    assert setting.after(3600) == []
    setting.wall_ns += 10**9
    assert setting.after(0) == ["JOB_DEADLINE"]
    assert setting.ended[0].code == code_pb2.DEADLINE_EXCEEDED


def test_what_has_ended_is_forgotten():
    setting = Setting(lease_s=10.0)
    setting.generation.is_terminal = True
    assert setting.after(100) == []
    assert not setting.leases._leases
    setting.leases.touch("g")
    with setting.leases.holding("g"):
        pass


def test_the_time_a_client_takes_is_told():
    setting, told = Setting(lease_s=1000.0), []
    with setting.leases.holding("g", on_given=told.append) as stream:
        setting.after(5)
        with stream.giving():
            setting.after(7)
        with stream.giving():
            setting.after(2)
    with setting.leases.holding("unknown", on_given=told.append) as stream, stream.giving():
        setting.after(3)
        assert sum(told) == 12, "it is told before the client has taken it"
        setting.after(4)
    assert sum(told) == 16
    setting.after(5)
    assert sum(told) == 16
