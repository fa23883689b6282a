"""Launches the group, watches it, and launches it anew when it is lost.

Ranks are crash-only: whatever happens to one of them ends the whole group. The front notices by the first stream that
breaks, by the agent's exit, or by a rank's silence; it gives the next launch a new epoch, so that nothing of the old
group is ever mistaken for the new one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import replace
from typing import Protocol

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.config import ServeConfig
from vinf_server.flag_values import ConfigError
from vinf_server.front.data_dir import DataDir
from vinf_server.front.engine.group import CHECK_S, Group, Loss
from vinf_server.front.engine.hosts import Host, HostAgents, Hosts
from vinf_server.front.engine.launch import Agent, LaunchPlan, start_spare
from vinf_server.front.engine.spare import SpareAgent
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.engine.watchdog import HangLimits, Pace
from vinf_server.front.metrics import Metrics

_log = logging.getLogger(__name__)

_STACKS_S = 0.3
"""How long ranks that hang may take to write down where: a handler in C does it, at once if at all."""

_SPARE_DELAY_S = 3.0
"""After the group became ready: the first generation gets the cores first."""

_VERDICT_S = 3.0
"""How long the agent may take to see a dead rank (0.1 s when it gets a core): it alone knows the exit code."""

OUT_OF_MEMORY = "GPU_OUT_OF_MEMORY"
"""Reason that a rank leaves in its failure file when a generation did not fit."""


class GroupFailedError(Exception):
    """The ranks cannot be kept running; the message is for the operator."""


class GroupConfigurationError(GroupFailedError):
    """A rank says that it can never start with this configuration."""


class GroupListener(Protocol):
    """Whoever must know whether there is a group."""

    def group_ready(self, group: Group) -> None:
        """Called when a group can take orders."""

    def group_lost(self, loss: Loss) -> None:
        """Called at once when a group was lost, before anything is cleaned up."""


class Supervisor:
    """Keeps one group running."""

    def __init__(
        self,
        config: ServeConfig,
        data_dir: DataDir,
        status: EngineStatus,
        listener: GroupListener,
        metrics: Metrics,
        hosts: Hosts | None = None,
    ) -> None:
        """Make it; nothing is launched yet.

        Args:
            config: of the whole server.
            data_dir: where the ranks' logs go.
            status: shows the group of the moment to the rest of the front.
            listener: hears of its beginning and its end.
            metrics: counts relaunches.
            hosts: the other hosts of the group; None when there are none.
        """
        self._config = config
        self._data_dir = data_dir
        self._status = status
        self._listener = listener
        self._metrics = metrics
        self._hosts = hosts
        self._agent: Agent | HostAgents | None = None
        self._spare: SpareAgent | None = None
        self._limits = HangLimits(beat_s=config.beat_timeout_s, work_s=config.hang_timeout_s)
        self._pace = Pace()
        self._launched_on: list[str] = []
        self._measured_on: list[str] = []
        """The other hosts of the last launch, and of the last one that was ready."""
        self._lost_at: float | None = None
        """When the group was lost that the next one will replace; None while one is ready, and before the first."""
        self._lost_cause = ""
        self._epoch = 0
        self._spare_epoch = 0
        """The launch under which the last spare agent was started."""

    async def run(self) -> None:
        """Launch and relaunch until cancelled; raises `GroupFailedError` when that makes no sense any more."""
        losses: deque[float] = deque()
        failed_starts = 0
        while True:
            agent, group = await self._launch()
            loss = await self._watch(agent, group)
            last_words = await self._clean_up(agent, loss)
            if loss.reason == OUT_OF_MEMORY and group.ready_report is not None:
                # The generation was at fault, not the group.
                continue
            now = time.monotonic()
            losses.append(now)
            while now - losses[0] > self._config.loss_window_s:
                losses.popleft()
            if len(losses) >= self._config.max_losses:
                raise GroupFailedError(
                    f"the group of ranks was lost {len(losses)} times within {self._config.loss_window_s / 60:g} "
                    f"minutes; giving up. Last: {loss.message}" + (f": {last_words}" if last_words else "")
                )
            # One that worked is replaced at once; one that cannot start is not tried in a tight loop.
            failed_starts = 0 if group.became_ready.done() else failed_starts + 1
            if failed_starts:
                await asyncio.sleep(self._config.relaunch_delay_s * 2 ** (failed_starts - 1))

    async def stop(self, *, within_s: float) -> None:
        """Let the ranks leave, then make sure that they are gone. `run` must have been cancelled before.

        Args:
            within_s: when whatever has not left is killed.
        """
        await self._drop_spare()
        agent, group = self._agent, self._status.group
        if agent is None:
            return
        if group is not None:
            group.is_stopping = True
            if group.is_attached and not group.lost.done():
                group.send(link_pb2.AttachResponse(stop=link_pb2.StopOrder()))
                await agent.wait(timeout_s=within_s / 2)
        await agent.stop(grace_s=within_s / 2)
        self._agent = None

    def kill_now(self) -> None:
        """SIGKILL the ranks without waiting for anything."""
        if self._spare is not None:
            self._spare.kill_now()
        if self._agent is not None:
            self._agent.kill_now()

    async def _launch(self) -> tuple[Agent | HostAgents, Group]:
        hosts, world_size = await self._gather_hosts()
        self._epoch += 1
        plan = LaunchPlan(
            epoch=self._epoch,
            link_address=f"unix:{self._data_dir.socket}",
            log_folder=self._data_dir.new_log_folder(self._epoch),
            failure_file=self._data_dir.private / "failure.json",
            memory=self._known_memory(hosts),
        )
        group = Group(self._epoch, world_size, limits=self._limits, pace=self._pace)
        self._status.group = group
        spare, self._spare = self._spare, None
        agent: Agent | HostAgents
        try:
            if self._hosts is None:
                agent = await Agent.start(self._config, plan, spare)
            else:
                agent = await self._hosts.launch(hosts, self._config, plan, spare)
        except OSError as error:
            raise GroupFailedError(f"cannot start the ranks: {error}") from error
        self._agent = agent
        _log.info("launched %d ranks, epoch %d, logs in %s", world_size, self._epoch, plan.log_folder)
        return agent, group

    async def _gather_hosts(self) -> tuple[list[Host], int]:
        """Wait until all hosts are there; return the other ones, and the ranks of all of them."""
        if self._hosts is None:
            return [], self._config.ranks
        hosts = await self._hosts.complete()
        world_size = self._config.ranks + sum(host.rank_count for host in hosts)
        try:
            self._config.mesh.check(world_size)
        except ConfigError as error:
            raise GroupConfigurationError(str(error)) from error
        weights = self._config.rank_weights
        if weights.source == "given" and len(weights.given) != world_size:
            message = f"--rank-weights: {len(weights.given)} numbers for {world_size} ranks; give one a rank"
            raise GroupConfigurationError(message)
        return hosts, world_size

    async def _watch(self, agent: Agent | HostAgents, group: Group) -> Loss:
        """Wait until the group is lost, tell the listener what happened on the way."""
        announced = False
        while not group.lost.done():
            waiting: set[asyncio.Future[object]] = {agent.exited, group.lost}  # type: ignore[arg-type]
            if not announced:
                waiting.add(group.became_ready)  # type: ignore[arg-type]
            await self._prepare_spare(group)
            await asyncio.wait(waiting, timeout=CHECK_S, return_when=asyncio.FIRST_COMPLETED)
            if agent.exited.done():
                group.lose(Loss(message="the group of ranks ended: " + agent.exit_summary(), cause="exit"))
            group.check()
            if group.is_ready and not announced:
                announced = True
                self._status.known_report = group.ready_report
                self._measured_on = self._launched_on
                agent.note_descendants()
                self._note_recovery()
                self._listener.group_ready(group)
        loss = group.lost.result()
        if announced:
            self._lost_at, self._lost_cause = time.monotonic(), ""
        if isinstance(agent, HostAgents) and loss.cause == "connection":
            await agent.wait_for_report()
        failure = agent.read_rank_failure()
        if failure is not None and failure.reason == OUT_OF_MEMORY:
            loss = replace(loss, reason=OUT_OF_MEMORY, message=f"a rank ran out of memory: {failure.message}")
        self._listener.group_lost(loss)
        return loss

    async def _clean_up(self, agent: Agent | HostAgents, loss: Loss) -> str:
        """End what is left of the group, say why it was lost, and return the last words of the rank at fault."""
        agent.note_descendants()
        if loss.cause == "hang":
            agent.dump_stacks()
            await agent.wait(timeout_s=_STACKS_S)
        else:
            await agent.wait_for_verdict(timeout_s=_VERDICT_S)
        by_signal, summary = agent.ended_by_signal, agent.exit_summary()
        await agent.kill()
        self._agent = None
        failure = agent.read_rank_failure()
        if failure is not None and failure.reason != OUT_OF_MEMORY:
            raise GroupConfigurationError(failure.message)
        if loss.reason == OUT_OF_MEMORY:
            cause = "oom"
        else:
            cause = "hang" if loss.cause == "hang" else "signal" if by_signal else "exit"
        self._metrics.ranks.restarts.labels(cause).inc()
        self._lost_cause = self._lost_cause or cause  # not that of another launch that came to nothing
        about = {"epoch": self._epoch} | ({"rank": loss.rank} if loss.rank is not None else {})
        _log.error("the group was lost (epoch %d): %s; %s", self._epoch, loss.message, summary, extra=about)
        _log.error("%s", agent.log_tail(loss.rank), extra=about)
        return agent.last_words(loss.rank)

    def _note_recovery(self) -> None:
        """A group is ready: say how long there was none, if there was one before."""
        if self._lost_at is not None:
            duration = self._metrics.ranks.recovery_duration.labels(self._lost_cause)
            duration.observe(time.monotonic() - self._lost_at)
            self._lost_at = None

    def _known_memory(self, hosts: list[Host]) -> link_pb2.MemoryModel | None:
        """What an earlier group has measured on the same devices."""
        self._launched_on = [host.host_id for host in hosts]
        report = self._status.known_report if self._measured_on == self._launched_on else None
        return report.memory if report is not None and report.HasField("memory") else None

    async def _prepare_spare(self, group: Group) -> None:
        """Start the next agent once the group is ready and the first rush is over; once a launch, should it die."""
        if not self._config.keeps_spare_agent or self._spare_epoch == self._epoch:
            return
        if not group.is_ready or group.ready_for_s < _SPARE_DELAY_S:
            return
        self._spare_epoch = self._epoch
        try:
            self._spare = await start_spare(self._config, self._data_dir.private / "spare.log")
        except OSError as error:
            _log.warning("no spare agent: %s", error)

    async def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.stop()
