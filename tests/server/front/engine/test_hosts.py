"""Places of a group, and the agents of several hosts as one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from vinf.engine.v1 import worker_host_service_pb2 as pb
from vinf_server.config import ServeConfig
from vinf_server.flag_values import Address
from vinf_server.front.engine.hosts import HostAgents, HostMismatchError, Hosts, PlacesTakenError
from vinf_server.front.engine.launch import LaunchPlan, Rendezvous, torchrun_arguments
from vinf_server.hosts_config import HostsConfig

pytestmark = pytest.mark.fast


def offer(**fields):
    return pb.HostOffer(
        **({"host_id": "b", "name": "second", "version": "1", "rank_count": 2, "device_kind": "cpu"} | fields)
    )


def order(epoch):
    return pb.LaunchAgentOrder(epoch=epoch)


@pytest.fixture
def hosts():
    return Hosts(HostsConfig(count=2, link=Address("127.0.0.1", 1)), version="1", device_kind="cpu")


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 10))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": "2"}, r"second \(127.0.0.1\) runs vinf 2, this group 1; install the same"),
        ({"device_kind": "cuda"}, "would compute on cuda, this group computes on cpu"),
        ({"rank_count": 0}, "offers 0 ranks"),
    ],
)
def test_who_can_never_be_one_of_the_group(hosts, fields, message):
    with pytest.raises(HostMismatchError, match=message):
        hosts.join(offer(**fields), "127.0.0.1")
    assert hosts.joined_count == 1


def test_a_host_that_joins_again_takes_its_own_place(hosts):
    async def scenario():
        waiting = asyncio.create_task(hosts.complete())
        first = hosts.join(offer(), "127.0.0.1")
        assert await waiting == [first]
        with pytest.raises(PlacesTakenError):
            hosts.join(offer(host_id="c"), "127.0.0.1")
        agent = first.launch(order(4))
        again = hosts.join(offer(), "127.0.0.1")
        assert "joined again" in agent.exited.result().summary, "its ranks are lost"
        assert (await first.next_order()).HasField("launch")
        assert await first.next_order() is None, "its old stream ends"
        hosts.leave(first)
        assert await hosts.complete() == [again], "the end of the old stream takes nothing away"
        hosts.leave(again)
        assert hosts.joined_count == 1

    run(scenario())


class LocalAgent:
    def __init__(self, *, ended_by_signal=False):
        self.exited = asyncio.get_running_loop().create_future()
        self.ended_by_signal = ended_by_signal
        self.is_killed = False

    async def kill(self):
        self.is_killed = True
        self.exited.set_result(1)

    def exit_summary(self):
        return "rank 0 ended with exit code 1"

    def read_rank_failure(self):
        return None

    def log_tail(self, rank=None):
        return "local log"

    def last_words(self, rank=None):
        return "log"


@pytest.mark.parametrize("local_signal", [True, False])
def test_the_first_one_to_fail_is_the_one_that_a_signal_ended(hosts, local_signal):
    async def scenario():
        remote = hosts.join(offer(), "127.0.0.1").launch(order(4))
        agents = HostAgents(LocalAgent(ended_by_signal=local_signal), [remote])
        assert not agents.exited.done()
        report = {"summary": "rank 1 ended with signal 9", "by_signal": True, "log_tail": "Killed"}
        remote.host.take_ended(pb.AgentEnded(epoch=3, **report))
        assert not remote.exited.done(), "a report of another launch"
        remote.host.take_ended(pb.AgentEnded(epoch=4, **report))
        await agents.exited
        assert agents.ended_by_signal
        assert agents.last_words() == ("log" if local_signal else "Killed")
        if local_signal:
            assert (agents.exit_summary(), agents.log_tail()) == ("rank 0 ended with exit code 1", "local log")
        else:
            assert agents.exit_summary() == "host second (127.0.0.1): rank 1 ended with signal 9"
            assert agents.log_tail() == "host second (127.0.0.1): Killed"

    run(scenario())


def test_what_the_end_of_all_leaves_behind_is_no_fault(hosts):
    async def scenario():
        remote = hosts.join(offer(), "127.0.0.1").launch(order(4))
        agents = HostAgents(LocalAgent(), [remote])
        ending = asyncio.create_task(agents.kill())
        await asyncio.sleep(0)
        remote.end(pb.AgentEnded(epoch=4, summary="the agent ended with signal 9", by_signal=True))
        await ending
        assert (agents.exit_summary(), agents.log_tail()) == ("rank 0 ended with exit code 1", "local log")

    run(scenario())


def test_a_failure_that_another_try_would_not_mend_comes_from_any_host(hosts):
    async def scenario():
        remote = hosts.join(offer(), "127.0.0.1").launch(order(4))
        agents = HostAgents(LocalAgent(), [remote])
        assert agents.read_rank_failure() is None
        remote.end(pb.AgentEnded(epoch=4, failure_reason="MODEL_NOT_FOUND", failure_message="no model"))
        failure = agents.read_rank_failure()
        assert (failure.reason, failure.message) == ("MODEL_NOT_FOUND", "host second (127.0.0.1): no model")

    run(scenario())


def test_a_host_that_does_not_confirm_the_end_is_cut_off(hosts, monkeypatch):
    monkeypatch.setattr("vinf_server.front.engine.hosts._END_S", 0.05)

    async def scenario():
        host = hosts.join(offer(), "127.0.0.1")
        agents = HostAgents(local := LocalAgent(), [host.launch(order(4))])
        await agents.kill()
        assert local.is_killed
        assert (await host.next_order()).launch.epoch == 4
        end = (await host.next_order()).end
        assert (end.epoch, end.grace_seconds) == (4, 0)
        assert await host.next_order() is None
        assert hosts.joined_count == 1, "nothing is launched on it any more, even before its stream has ended"

    run(scenario())


def test_torchrun_meets_the_other_hosts():
    rendezvous = Rendezvous(id="vinf-4", endpoint="10.0.0.1:5", host_count=2, local_addr="10.0.0.2", is_host=False)
    folder = Path("/logs")
    plan = LaunchPlan(
        epoch=4, link_address="10.0.0.1:6", log_folder=folder, failure_file=folder / "f", rendezvous=rendezvous
    )
    arguments = torchrun_arguments(ServeConfig(ranks=3), plan)
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options["--nnodes"] == "2"
    assert options["--nproc-per-node"] == "3"
    assert (options["--rdzv-backend"], options["--rdzv-endpoint"]) == ("c10d", "10.0.0.1:5")
    assert options["--local-addr"] == "10.0.0.2"
    assert options["--rdzv-conf"].startswith("is_host=0,")
