"""The group of ranks under one epoch: what it said, whether it lives, and its way out for orders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.engine.watchdog import AttentiveClock, HangLimits, Pace, Work

Cause = Literal["connection", "exit", "hang"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Why a group can work no more; the first reason counts, what follows is its consequence."""

    message: str
    cause: Cause
    """How it was noticed: a stream broke, the agent ended, or a rank fell silent or got on no more."""

    rank: int | None = None

    reason: str = "WORKER_LOST"
    """What the generation in work fails with."""


@dataclass(slots=True)
class RankStatus:
    """The newest beat of a rank and when it came."""

    beat: link_pb2.BeatRequest
    beat_time: float
    """On the group's own clock, so that a changed wall clock looks like no silence."""


CHECK_S = 0.5
"""How often `Group.check` is to be called."""


class Group:
    """One launch of the ranks. Touched by the event loop only."""

    def __init__(
        self,
        epoch: int,
        world_size: int,
        *,
        limits: HangLimits | None = None,
        pace: Pace | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the group of a launch.

        Args:
            epoch: of the launch.
            world_size: ranks that were launched.
            limits: when one hangs.
            pace: what steps took in earlier groups.
            monotonic: the clock, in seconds.
        """
        self.epoch = epoch
        self.world_size = world_size
        self.clock = AttentiveClock(2 * CHECK_S, monotonic)
        self.work: Work | None = None
        """The order in work."""
        self._limits = limits or HangLimits()
        self._pace = pace or Pace()
        self.is_stopping = False
        self.is_attached = False
        self.ready_report: link_pb2.ReadyReport | None = None
        self.ranks: dict[int, RankStatus] = {}
        self._first_beat_time: float | None = None
        self._ready_time = 0.0
        self._orders: asyncio.Queue[link_pb2.AttachResponse | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Loss] = loop.create_future()
        self.became_ready: asyncio.Future[None] = loop.create_future()

    @property
    def is_ready(self) -> bool:
        """True while every rank beats and the model is loaded."""
        return self.became_ready.done() and not self.lost.done() and not self.is_stopping

    @property
    def ready_for_s(self) -> float:
        """Seconds since the model was loaded on every rank."""
        return self.clock.now() - self._ready_time

    def send(self, order: link_pb2.AttachResponse) -> None:
        """Put an order on its way to rank 0."""
        if order.HasField("generate"):
            wanted = order.generate
            pixels, now = wanted.frame_count * wanted.width * wanted.height, self.clock.now()
            self.work = Work(wanted.generation_id, pixels, limits=self._limits, pace=self._pace, now=now)
            for rank, status in self.ranks.items():
                self.work.take_count(rank, status.beat.progress_count, now)
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
        self._ready_time = self.clock.now()
        self._check_ready()

    def take_report(self, report: link_pb2.AttachRequest) -> None:
        """Note how the order in work gets on."""
        work, kind = self.work, report.WhichOneof("report")
        if work is None or kind is None or kind == "ready":
            return
        if getattr(report, kind).generation_id != work.generation_id:
            return
        if kind == "finished":
            self.work = None
        elif kind == "progress" and report.progress.step_seconds > 0:
            work.step_ended(report.progress.step_seconds, self.clock.now())
        else:
            if kind == "progress" and report.progress.stage != link_pb2.STAGE_TEXT:
                work.prepared()
            work.progressed(self.clock.now())

    def take_beat(self, beat: link_pb2.BeatRequest) -> None:
        """Note that a rank is alive; it counts as up once it names its device."""
        now = self.clock.now()
        if self._first_beat_time is None:
            self._first_beat_time = now
        self.ranks[beat.rank] = RankStatus(beat, now)
        if self.work is not None:
            self.work.take_count(beat.rank, beat.progress_count, now)
        self._check_ready()

    def lose(self, loss: Loss) -> None:
        """Call the group lost, unless it is known to be or is leaving as it was told to."""
        if not self.lost.done() and not self.is_stopping:
            self.lost.set_result(loss)

    def lose_stream(self, rank: int) -> None:
        """Call the group lost because a stream of a rank ended."""
        message = f"{self.describe(rank)} was lost: its connection broke"
        self.lose(Loss(message=message, cause="connection", rank=rank))

    def check(self) -> None:
        """Call the group lost when a rank has been silent, or its work has stood still, for too long."""
        now = self.clock.tick()
        if self.ready_report is None:
            self._check_start(now)
            return
        self._check_beats(now)
        work = self.work
        if work is not None and work.silence_s(now) > work.limit_s:
            usual = work.usual_step_s
            message = f"the ranks hang: no progress for {work.silence_s(now):.1f} s, " + (
                "and none of them has done a step yet" if usual is None else f"a step usually takes {usual:.2f} s"
            )
            rank = work.suspect
            if rank is not None:
                message += f"; the first to stand still was {self.describe(rank)}"
            self.lose(Loss(message=message, cause="hang", rank=rank))

    def _check_start(self, now: float) -> None:
        """Before the group is ready ranks owe beats from the first beat of any of them on."""
        if self._first_beat_time is not None:
            for rank in range(self.world_size):
                self._check_silence(rank, self._first_beat_time, now, self._limits.start_s)

    def _check_beats(self, now: float) -> None:
        for rank in range(self.world_size):
            self._check_silence(rank, self._ready_time, now, self._limits.beat_s)

    def _check_silence(self, rank: int, owed_since: float, now: float, limit_s: float) -> None:
        status = self.ranks.get(rank)
        if now - max(owed_since, status.beat_time if status else 0.0) > limit_s:
            who = f"rank {rank}" + (f" (pid {status.beat.pid})" if status else "")
            self.lose(Loss(message=f"{who} gave no sign of life for {limit_s:g} s", cause="hang", rank=rank))

    def describe(self, rank: int) -> str:
        """Name a rank for people."""
        status = self.ranks.get(rank)
        return f"rank {rank} (pid {status.beat.pid}, {status.beat.device})" if status else f"rank {rank}"

    def _check_ready(self) -> None:
        described = sum(1 for status in self.ranks.values() if status.beat.device)
        if self.ready_report is not None and described == self.world_size and not self.became_ready.done():
            self.became_ready.set_result(None)
