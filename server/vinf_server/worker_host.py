"""A host that has joined a server: starts and ends its ranks as the server says, and ends them when it is gone."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import socket
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import grpc

from vinf.engine.v1 import worker_host_service_pb2 as host_pb2
from vinf.engine.v1 import worker_host_service_pb2_grpc as host_grpc
from vinf_server.addresses import address_towards, network_environment
from vinf_server.config import ServeConfig
from vinf_server.flag_values import Address
from vinf_server.front.engine.launch import (
    SHARED_VARIABLES,
    Agent,
    LaunchPlan,
    RankFailure,
    Rendezvous,
    agent_environment,
)
from vinf_server.link_security import LinkSecurity, open_aio_channel

_log = logging.getLogger(__name__)

_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
"""Trying again would not help."""

_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 5.0

_FAILURE_POLL_S = 0.1
_STACKS_S = 0.3
_STOP_GRACE_S = 2.0
_KEPT_LOG_FOLDERS = 3


class JoinRefusedError(Exception):
    """The server does not want this host; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """What `vinf worker` was asked for, checked."""

    join: Address
    ranks: ServeConfig
    """Number, devices and programs of the ranks; everything else of it comes from the server."""
    security: LinkSecurity = field(default_factory=LinkSecurity)
    local_addr: str | None = None
    """Address of this host for the other hosts' ranks; None: the one that reaches the server."""


class WorkerHost:
    """One host's way through joining, launches and losses."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._host_id = uuid.uuid4().hex
        self._stopping = asyncio.Event()
        self._folder = Path(tempfile.mkdtemp(prefix="vinf-worker-"))
        self._agent: Agent | None = None
        self._agent_epoch = 0
        self._is_joined = False
        self._watching: asyncio.Task[None] | None = None
        self._reports: asyncio.Queue[host_pb2.JoinRequest] = asyncio.Queue()

    async def run(self) -> None:
        """Join, and join again whenever that ends, until a signal comes.

        Raises:
            JoinRefusedError: the server will never take this host.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        stopping = asyncio.create_task(self._stopping.wait())
        joining = asyncio.create_task(self._join_again_and_again())
        try:
            await asyncio.wait((stopping, joining), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The stream goes last: while it lives, the server does not take this host for lost.
            await self._end_agent(grace_s=_STOP_GRACE_S)
            stopping.cancel()
            joining.cancel()
            try:
                with suppress(asyncio.CancelledError):
                    await joining
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)

    async def _join_again_and_again(self) -> None:
        delay = _FIRST_RETRY_S
        while True:
            self._is_joined = False
            problem = "the server ended the connection"
            try:
                await self._stay_joined()
            except grpc.aio.AioRpcError as error:
                if error.code() in _REFUSED:
                    raise JoinRefusedError(f"{self._config.join} refuses this host: {error.details()}") from error
                problem = str(error.details())
            finally:
                # No rank may go on alone: the server has given up its group or is about to.
                await self._end_agent(grace_s=0)
            delay = _FIRST_RETRY_S if self._is_joined else min(2 * delay, _LONGEST_RETRY_S)
            what = "lost" if self._is_joined else "cannot join"
            _log.warning("%s the server at %s: %s; next try in %g s", what, self._config.join, problem, delay)
            await asyncio.sleep(delay)

    async def _stay_joined(self) -> None:
        """Offer the ranks and do what the server says until the stream ends."""
        security = self._config.security
        self._reports = asyncio.Queue()
        async with open_aio_channel(str(self._config.join), security) as channel:
            stub = host_grpc.WorkerHostServiceStub(channel)
            call = stub.Join(self._outgoing(self._reports), metadata=security.metadata())
            async for order in call:
                if order.HasField("welcome"):
                    self._is_joined = True
                    counts = (order.welcome.joined_count, order.welcome.host_count)
                    _log.info("joined the server at %s: %d of %d hosts are there", self._config.join, *counts)
                elif order.HasField("launch"):
                    await self._launch(order.launch)
                elif order.HasField("end") and order.end.epoch == self._agent_epoch:
                    if order.end.dump_stacks and self._agent is not None:
                        self._agent.dump_stacks()
                        await self._agent.wait(timeout_s=_STACKS_S)
                    await self._end_agent(grace_s=order.end.grace_seconds)

    async def _outgoing(self, reports: asyncio.Queue[host_pb2.JoinRequest]) -> AsyncIterator[host_pb2.JoinRequest]:
        ranks = self._config.ranks
        yield host_pb2.JoinRequest(
            offer=host_pb2.HostOffer(
                host_id=self._host_id,
                name=socket.gethostname(),
                version=version("vinf"),
                rank_count=ranks.ranks,
                device_kind="cuda" if ranks.uses_cuda else "cpu",
            )
        )
        while True:
            yield await reports.get()

    async def _launch(self, order: host_pb2.LaunchAgentOrder) -> None:
        await self._end_agent(grace_s=0)
        self._agent_epoch = order.epoch
        try:
            self._agent = await Agent.start(self._config.ranks, self._plan(order))
        except OSError as error:
            _log.error("cannot start the ranks: %s", error)
            summary = f"the ranks could not be started: {error}"
            self._report(host_pb2.AgentEnded(epoch=order.epoch, summary=summary))
            return
        _log.info("launched %d ranks, epoch %d, logs in %s", self._config.ranks.ranks, order.epoch, self._folder)
        self._reports.put_nowait(host_pb2.JoinRequest(started=host_pb2.AgentStarted(epoch=order.epoch)))
        self._watching = asyncio.create_task(self._watch(self._agent, order.epoch))

    def _plan(self, order: host_pb2.LaunchAgentOrder) -> LaunchPlan:
        """What `Agent` needs; OSError when there is no way to the server."""
        config = self._config
        local_addr = config.local_addr or address_towards(config.join.host)
        plan = LaunchPlan(
            epoch=order.epoch,
            link_address=str(config.join),
            log_folder=self._new_log_folder(order.epoch),
            failure_file=self._folder / "failure.json",
            rendezvous=Rendezvous(
                id=order.rendezvous_id,
                endpoint=order.rendezvous_endpoint,
                host_count=order.host_count,
                local_addr=local_addr,
                is_host=False,
            ),
        )
        # The server says what the ranks compute, and nothing else: not which programs run here, nor with which paths.
        told = {name: order.environment[name] for name in SHARED_VARIABLES if name in order.environment}
        network = network_environment(local_addr, agent_environment(config.ranks, plan))
        return replace(plan, environment=told | network | config.security.to_environment())

    async def _watch(self, agent: Agent, epoch: int) -> None:
        """Wait for the agent's end, or for a rank that says why it gives up, and report it."""
        while not agent.exited.done() and agent.read_rank_failure() is None:
            await agent.wait(timeout_s=_FAILURE_POLL_S)
            agent.note_descendants()
        failure = agent.read_rank_failure() or RankFailure("", "")
        await agent.kill()
        ended = host_pb2.AgentEnded(
            epoch=epoch,
            summary="the worker was stopped" if self._stopping.is_set() else agent.exit_summary(),
            by_signal=agent.ended_by_signal,
            log_tail=agent.log_tail(),
            failure_reason=failure.reason,
            failure_message=failure.message,
        )
        _log.info("the ranks of epoch %d have ended: %s", epoch, failure.message or ended.summary)
        self._report(ended)

    def _report(self, ended: host_pb2.AgentEnded) -> None:
        self._reports.put_nowait(host_pb2.JoinRequest(ended=ended))

    async def _end_agent(self, *, grace_s: float) -> None:
        """Nothing of the agent is left afterwards, and its end is reported."""
        agent, self._agent = self._agent, None
        watching, self._watching = self._watching, None
        if agent is not None:
            await (agent.stop(grace_s=grace_s) if grace_s > 0 else agent.kill())
        if watching is not None:
            await watching

    def _new_log_folder(self, epoch: int) -> Path:
        for old in sorted(self._folder.glob("epoch-*"), key=lambda path: path.stat().st_mtime)[: 1 - _KEPT_LOG_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"epoch-{epoch}-", dir=self._folder))
