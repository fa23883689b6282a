"""The group of ranks under one epoch: what it said, whether it lives, and its way out for orders."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Literal

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2

Cause = Literal["connection", "exit", "hang"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Why a group can work no more; the first reason counts, what follows is its consequence."""

    message: str
    cause: Cause
    """How it was noticed: a stream broke, the agent ended, or a rank fell silent."""

    rank: int | None = None

    reason: str = "WORKER_LOST"
    """What the generation in work fails with."""


@dataclass(slots=True)
class RankStatus:
    """The newest beat of a rank and when it came."""

    beat: link_pb2.BeatRequest
    beat_time: float
    """On the monotonic clock, so that a changed wall clock looks like no silence."""


class Group:
    """One launch of the ranks. Touched by the event loop only."""

    def __init__(self, epoch: int, world_size: int) -> None:
        self.epoch = epoch
        self.world_size = world_size
        self.is_stopping = False
        self.is_attached = False
        self.ready_report: link_pb2.ReadyReport | None = None
        self.ranks: dict[int, RankStatus] = {}
        self._ready_time = 0.0
        self._orders: asyncio.Queue[link_pb2.AttachResponse | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Loss] = loop.create_future()
        self.became_ready: asyncio.Future[None] = loop.create_future()

    @property
    def is_ready(self) -> bool:
        """True while every rank beats and the model is loaded."""
        return self.became_ready.done() and not self.lost.done() and not self.is_stopping

    def send(self, order: link_pb2.AttachResponse) -> None:
        """Put an order on its way to rank 0."""
        self._orders.put_nowait(order)

    def end_orders(self) -> None:
        """Let `next_order` return None after the orders sent so far."""
        self._orders.put_nowait(None)

    async def next_order(self) -> link_pb2.AttachResponse | None:
        """Wait for an order; None when there will be no more."""
        return await self._orders.get()

    def take_ready(self, report: link_pb2.ReadyReport) -> None:
        """Note that the model is loaded on every rank."""
        if report.world_size != self.world_size:
            message = f"{self.world_size} ranks were launched, rank 0 reports {report.world_size}"
            self.lose(Loss(message=message, cause="exit"))
            return
        self.ready_report = report
        self._ready_time = time.monotonic()
        self._check_ready()

    def take_beat(self, beat: link_pb2.BeatRequest) -> None:
        """Note that a rank is alive; it counts as up once it names its device."""
        self.ranks[beat.rank] = RankStatus(beat, time.monotonic())
        self._check_ready()

    def lose(self, loss: Loss) -> None:
        """Call the group lost, unless it is known to be or is leaving as it was told to."""
        if not self.lost.done() and not self.is_stopping:
            self.lost.set_result(loss)

    def lose_stream(self, rank: int) -> None:
        """Call the group lost because a stream of a rank ended."""
        message = f"{self.describe(rank)} was lost: its connection broke"
        self.lose(Loss(message=message, cause="connection", rank=rank))

    def check_beats(self, timeout_s: float) -> None:
        """Call the group lost when a rank has been silent for too long; only a ready group owes beats."""
        if self.ready_report is None:
            return
        for rank in range(self.world_size):
            status = self.ranks.get(rank)
            since = max(self._ready_time, status.beat_time if status else 0.0)
            if time.monotonic() - since > timeout_s:
                who = f"rank {rank}" + (f" (pid {status.beat.pid})" if status else "")
                self.lose(Loss(message=f"{who} gave no sign of life for {timeout_s:g} s", cause="hang", rank=rank))

    def describe(self, rank: int) -> str:
        """Name a rank for people."""
        status = self.ranks.get(rank)
        return f"rank {rank} (pid {status.beat.pid}, {status.beat.device})" if status else f"rank {rank}"

    def _check_ready(self) -> None:
        described = sum(1 for status in self.ranks.values() if status.beat.device)
        if self.ready_report is not None and described == self.world_size and not self.became_ready.done():
            self.became_ready.set_result(None)
