"""The other hosts of the group: who has joined, and the agents of all hosts as if they were one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from vinf.engine.v1 import worker_host_service_pb2 as host_pb2
from vinf_server.addresses import address_towards, free_port, host_and_port, network_environment
from vinf_server.config import ServeConfig
from vinf_server.front.engine.launch import (
    SHARED_VARIABLES,
    Agent,
    LaunchPlan,
    RankFailure,
    Rendezvous,
    agent_environment,
)
from vinf_server.front.engine.spare import SpareAgent
from vinf_server.front.wakeup import Wakeup
from vinf_server.hosts_config import HostsConfig
from vinf_server.logs import words_of

_log = logging.getLogger(__name__)

_END_S = 3.0
"""For a host to answer that its ranks are gone; one that does not is cut off, and ends them by itself."""

_REPORT_S = 0.5
"""For a host to say why its rank left, once the rank's streams broke."""

_VERDICT_S = 2.0
"""For a host to name the rank that failed first, where it was none of this host's; its agent needs a second."""

_WAITING_LOG_S = 30.0


class PlacesTakenError(Exception):
    """The group has all its hosts."""


class HostMismatchError(Exception):
    """This host can never be one of the group; the message is for its operator."""


class Host:
    """One host for as long as its stream lives. Touched by the event loop only."""

    def __init__(self, offer: host_pb2.HostOffer, address: str) -> None:
        self.host_id = offer.host_id
        self.rank_count = offer.rank_count
        self.address = address
        """The IP address it came from."""
        self.local_addr = address_towards(address)
        """The address of this host that it reaches."""
        self.name = f"{offer.name} ({address})"
        self.is_leaving = False
        """Its place is free, even if its stream has not quite ended."""
        self.agent: RemoteAgent | None = None
        self._orders: asyncio.Queue[host_pb2.JoinResponse | None] = asyncio.Queue()

    def launch(self, order: host_pb2.LaunchAgentOrder) -> RemoteAgent:
        """Have it start its ranks."""
        self.agent = RemoteAgent(self, order.epoch)
        self._orders.put_nowait(host_pb2.JoinResponse(launch=order))
        return self.agent

    def end_agent(self, order: host_pb2.EndAgentOrder) -> None:
        """Have it end its ranks."""
        self._orders.put_nowait(host_pb2.JoinResponse(end=order))

    def drop(self) -> None:
        """End its stream; it then ends its ranks and joins again."""
        self.is_leaving = True
        self._orders.put_nowait(None)

    async def next_order(self) -> host_pb2.JoinResponse | None:
        """Wait for what it is to do; None when its stream is to end."""
        return await self._orders.get()

    def take_ended(self, report: host_pb2.AgentEnded) -> None:
        """Note that its ranks have ended."""
        if self.agent is not None and self.agent.epoch == report.epoch:
            self.agent.end(report)


class RemoteAgent:
    """The agent of another host."""

    def __init__(self, host: Host, epoch: int) -> None:
        self.host = host
        self.epoch = epoch
        self.exited: asyncio.Future[host_pb2.AgentEnded] = asyncio.get_running_loop().create_future()

    def end(self, report: host_pb2.AgentEnded) -> None:
        """Note its end; the first report counts."""
        if not self.exited.done():
            self.exited.set_result(report)

    def order_end(self, *, grace_s: float, dump_stacks: bool = False) -> None:
        """Have the host end it."""
        if not self.exited.done():
            order = host_pb2.EndAgentOrder(epoch=self.epoch, grace_seconds=grace_s, dump_stacks=dump_stacks)
            self.host.end_agent(order)


class Hosts:
    """The places of the group and who is in them."""

    def __init__(self, config: HostsConfig, *, version: str, device_kind: str) -> None:
        self._config = config
        self._version = version
        self._device_kind = device_kind
        self._hosts: dict[str, Host] = {}
        self._changed = Wakeup()
        self.link = config.link
        """Where they join, with the real port once it is bound."""

    @property
    def count(self) -> int:
        """Hosts of the group, the front's own included."""
        return self._config.count

    @property
    def joined_count(self) -> int:
        """Hosts that are there, the front's own included."""
        return 1 + len(self._present())

    def join(self, offer: host_pb2.HostOffer, address: str) -> Host:
        """Give a host a place; the one it may have had under a stream that has not broken yet is its own again.

        Raises:
            HostMismatchError: it can never be one of the group.
            PlacesTakenError: no place is free.
        """
        who = f"{offer.name} ({address})"
        if offer.version != self._version:
            raise HostMismatchError(f"{who} runs vinf {offer.version}, this group {self._version}; install the same")
        if not offer.host_id or not 1 <= offer.rank_count <= 256:
            raise HostMismatchError(f"{who} offers {offer.rank_count} ranks, not one in [1, 256]")
        if offer.device_kind != self._device_kind:
            raise HostMismatchError(
                f"the ranks of {who} would compute on {offer.device_kind}, this group computes on {self._device_kind}; "
                "see --device"
            )
        earlier = self._hosts.pop(offer.host_id, None)
        if earlier is not None:
            self._lose(earlier, "joined again: its connection had broken")
        if self.joined_count >= self._config.count:
            raise PlacesTakenError(f"all {self._config.count} hosts of the group are there")
        host = Host(offer, address)
        self._hosts[host.host_id] = host
        _log.info(
            "host %s joined with %d ranks (%s): %d of %d hosts are there",
            *(host.name, host.rank_count, offer.device_kind, self.joined_count, self._config.count),
        )
        self._changed.notify()
        return host

    def leave(self, host: Host) -> None:
        """Take a host's place back: its stream has ended."""
        if self._hosts.get(host.host_id) is host:
            del self._hosts[host.host_id]
            self._lose(host, "was lost: its connection ended")

    async def complete(self) -> list[Host]:
        """Wait until all hosts are there; the same order for the same hosts."""
        while self.joined_count < self._config.count:
            _log.info(
                "waiting for hosts: %d of %d are there; the others join with: vinf worker --join %s%s",
                *(self.joined_count, self._config.count, self.link),
                "" if self._config.security.tls else " --join-token-file FILE",
            )
            await self._changed.wait(timeout_s=_WAITING_LOG_S)
        return sorted(self._present(), key=lambda host: host.host_id)

    async def launch(
        self, hosts: list[Host], config: ServeConfig, plan: LaunchPlan, spare: SpareAgent | None
    ) -> HostAgents:
        """Start the agents of all hosts, which meet on a port of this one; OSError when that is not possible."""
        local_addr = self._config.local_addr or hosts[0].local_addr
        port = free_port(local_addr)
        rendezvous = Rendezvous(
            id=f"vinf-{plan.epoch}",
            endpoint=host_and_port(local_addr, port),
            host_count=1 + len(hosts),
            local_addr=local_addr,
            is_host=True,
        )
        environment = agent_environment(config, plan)
        shared = {name: environment[name] for name in SHARED_VARIABLES}
        plan = replace(plan, rendezvous=rendezvous, environment=network_environment(local_addr, environment))
        local = await Agent.start(config, plan, spare)
        remotes = []
        for host in hosts:
            towards = self._config.local_addr or host.local_addr
            order = host_pb2.LaunchAgentOrder(
                epoch=plan.epoch,
                rendezvous_endpoint=host_and_port(towards, port),
                rendezvous_id=rendezvous.id,
                host_count=rendezvous.host_count,
                environment=shared,
            )
            remotes.append(host.launch(order))
            if host.is_leaving:
                summary = f"host {host.name} left before its ranks were started"
                remotes[-1].end(host_pb2.AgentEnded(epoch=plan.epoch, summary=summary))
        return HostAgents(local, remotes)

    def _present(self) -> list[Host]:
        return [host for host in self._hosts.values() if not host.is_leaving]

    def _lose(self, host: Host, what: str) -> None:
        host.drop()
        summary = f"host {host.name} {what}"
        _log.warning("%s; %d of %d hosts are there", summary, self.joined_count, self._config.count)
        if host.agent is not None:
            host.agent.end(host_pb2.AgentEnded(epoch=host.agent.epoch, summary=summary))


class HostAgents:
    """One launch on all hosts; to the supervisor it looks like `Agent`."""

    def __init__(self, local: Agent, remotes: list[RemoteAgent]) -> None:
        self._local = local
        self._remotes = remotes
        self._judged: tuple[RemoteAgent | None, host_pb2.AgentEnded] | None = None
        """Who was at fault as it looked before everything was killed: a kill looks like a fault."""
        self._all: list[asyncio.Future[object]] = [local.exited, *(remote.exited for remote in remotes)]  # type: ignore[list-item]
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done as soon as the agent of any host has ended."""
        for future in self._all:
            future.add_done_callback(self._note_end)

    async def stop(self, *, grace_s: float) -> None:
        """End all of them with SIGTERM, and with SIGKILL when that takes too long."""
        self._judged = self._judge()
        for remote in self._remotes:
            remote.order_end(grace_s=grace_s)
        await self._local.stop(grace_s=grace_s)
        await self._await_remotes()

    async def kill(self) -> None:
        """SIGKILL whatever still lives; a host that does not confirm it is cut off."""
        self._judged = self._judge()
        for remote in self._remotes:
            remote.order_end(grace_s=0)
        await self._local.kill()
        await self._await_remotes()

    def kill_now(self) -> None:
        """SIGKILL what runs here; the other hosts end theirs when their connection breaks."""
        self._local.kill_now()

    def dump_stacks(self) -> None:
        """Have every rank write down where it stands; other hosts then end theirs."""
        self._judged = self._judge()
        self._local.dump_stacks()
        for remote in self._remotes:
            remote.order_end(grace_s=0, dump_stacks=True)

    async def wait(self, *, timeout_s: float) -> bool:
        """Wait for the end of all of them; False when it did not come in time."""
        _, pending = await asyncio.wait(self._all, timeout=timeout_s)
        return not pending

    def note_descendants(self) -> None:
        """Remember the ranks of this host."""
        self._local.note_descendants()

    async def wait_for_report(self) -> None:
        """Give the other hosts a moment to say why their ranks left."""
        if not self.exited.done():
            await asyncio.wait(self._all, timeout=_REPORT_S, return_when=asyncio.FIRST_COMPLETED)

    def read_rank_failure(self) -> RankFailure | None:
        """What a rank left to say before it gave up for good."""
        for remote, report in self._reports():
            if report.failure_reason:
                return RankFailure(report.failure_reason, f"host {remote.host.name}: {report.failure_message}")
        return self._local.read_rank_failure()

    async def wait_for_verdict(self, *, timeout_s: float) -> None:
        """Wait until an agent has named the rank that failed first."""
        if any(report.by_signal for _, report in self._reports()):
            return
        await self._local.wait_for_verdict(timeout_s=timeout_s)
        remotes = [remote.exited for remote in self._remotes]
        if not self._local.ended_by_signal:
            await asyncio.wait(remotes, timeout=_VERDICT_S, return_when=asyncio.FIRST_COMPLETED)

    def exit_summary(self) -> str:
        """Who failed first and how."""
        remote, report = self._judge()
        return self._local.exit_summary() if remote is None else self._describe(remote, report)

    @property
    def ended_by_signal(self) -> bool:
        """True when the first one to fail was killed by a signal."""
        remote, report = self._judge()
        return self._local.ended_by_signal if remote is None else report.by_signal

    def log_tail(self, rank: int | None = None) -> str:
        """The last lines of who failed first; the number of a rank says nothing about its host."""
        remote, report = self._judge()
        if remote is None:
            return self._local.log_tail()
        return f"host {remote.host.name}: {report.log_tail or 'it has sent no log'}"

    def last_words(self, rank: int | None = None) -> str:
        """The very last line of what `log_tail` shows, empty when there is none."""
        remote, report = self._judge()
        if remote is None:
            return self._local.last_words()
        return words_of(report.log_tail.rpartition("\n")[2])

    def _judge(self) -> tuple[RemoteAgent | None, host_pb2.AgentEnded]:
        """Who was at fault, and its report when it was another host.

        What a lost rank leaves behind are ranks that exit with a code; so a signal tells the first one.
        """
        if self._judged is not None:
            return self._judged
        reports = [] if self._local.ended_by_signal else self._reports()
        by_signal = [report for report in reports if report[1].by_signal]
        return next(iter(by_signal or reports), (None, host_pb2.AgentEnded()))

    def _reports(self) -> list[tuple[RemoteAgent, host_pb2.AgentEnded]]:
        return [(remote, remote.exited.result()) for remote in self._remotes if remote.exited.done()]

    async def _await_remotes(self) -> None:
        waiting = [remote for remote in self._remotes if not remote.exited.done()]
        if waiting:
            await asyncio.wait([remote.exited for remote in waiting], timeout=_END_S)
        for remote in waiting:
            if not remote.exited.done():
                _log.warning("host %s does not say that its ranks have ended: cut off", remote.host.name)
                remote.host.drop()

    def _note_end(self, _: asyncio.Future[object]) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    @staticmethod
    def _describe(remote: RemoteAgent, report: host_pb2.AgentEnded) -> str:
        who = f"host {remote.host.name}"
        return report.summary if report.summary.startswith(who) else f"{who}: {report.summary}"
