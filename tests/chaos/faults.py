"""Faults as they are done to a running server, and what came of each."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc
import psutil

from tests.chaos.api import Api, reason_of
from tests.chaos.front import ChaosFront
from tests.chaos.history import History
from tests.chaos.mutate import Mutator
from tests.chaos.plan import COSTS_THE_GROUP, Fault, network_faults, process_faults
from tests.chaos.proxy import Proxy, Weather
from tests.chaos.rpcs import public_rpcs

CHANCE_S = 120.0
"""How long a fault waits for a ready group that works: a group starts in this time on a busy machine."""

NOTICE_S = 30.0
"""A lost group must be noticed in this time: ten seconds without a beat, and slack."""

_FLOOD_AT_ONCE = 50


@dataclass(slots=True)
class FaultLog:
    """One fault that was done."""

    kind: str
    time: float
    """time.monotonic()."""

    generation_id: str = ""
    """The one that was running; empty: none was."""

    frames_before: int = 0
    """Frames it had by then: a later one was made after the fault."""

    red_s: float | None = None
    """Until the server said that it is not ready; None: it never did, or was not asked."""

    recovery_s: float | None = None
    """Until a client had a frame of that generation made after the fault; None: it ended otherwise."""


class Trouble:
    """Makes trouble on two tracks, processes and network, until told to stop."""

    def __init__(self, front: ChaosFront, proxy: Proxy, history: History, *, seed: int, restart_front: bool) -> None:
        self.done: list[FaultLog] = []
        self.flood_statuses: Counter[str] = Counter()
        self._front = front
        self._proxy = proxy
        self._history = history
        self._seed = seed
        self._restart_front = restart_front
        self._mutator = Mutator(random.Random(f"flood {seed}"))
        self._api = Api(front.address)

    async def close(self) -> None:
        """Hang up."""
        await self._api.close()

    @property
    def loss_times(self) -> list[float]:
        """When the group was made to die."""
        return [log.time for log in self.done if log.kind in COSTS_THE_GROUP or log.kind == "front-kill"]

    @property
    def losses_in_the_log(self) -> int:
        """Losses that the server should have noticed: not those of fronts that died along."""
        return sum(log.kind in COSTS_THE_GROUP for log in self.done)

    async def processes(self, stop: asyncio.Event) -> None:
        """Kill and pause processes, one after the other, each when the group works on something."""
        for fault in process_faults(self._seed, restart_front=self._restart_front):
            running = await self._wait_for_work(stop)
            await _sleep(fault.pause_s, stop)
            if stop.is_set():
                return
            log = FaultLog(fault.kind, time.monotonic())
            with contextlib.suppress(grpc.aio.AioRpcError):  # it is the server's own trouble that asks
                running = await self._api.running() or running
            if running:
                log.generation_id = running[0].generation_id
                log.frames_before = running[0].progress.completed_frame_count
            await self._act(fault, log)

    async def network(self, stop: asyncio.Event) -> None:
        """Spoil the network for some seconds, again and again."""
        for fault in network_faults(self._seed):
            await _sleep(fault.pause_s, stop)
            if stop.is_set():
                return
            log = FaultLog(fault.kind, time.monotonic())
            with contextlib.suppress(grpc.aio.AioRpcError):
                for generation in await self._api.running():
                    log.generation_id = generation.generation_id
                    log.frames_before = generation.progress.completed_frame_count
            self.done.append(log)
            if fault.kind == "reset":
                await self._proxy.reset()
            elif fault.kind == "flood":
                await self._flood(int(fault.amount))
            else:
                self._proxy.set_weather(_weather(fault))
                await _sleep(fault.lasts_s, stop)
                self._proxy.set_weather(Weather())

    # ---- processes ----

    async def _act(self, fault: Fault, log: FaultLog) -> None:
        doers: dict[str, Callable[[Fault, FaultLog], Awaitable[None]]] = {
            "rank-kill": lambda fault, log: self._lose(self._rank(fault), signal.SIGKILL, log),
            "rank-stop": lambda fault, log: self._lose(self._rank(fault), signal.SIGSTOP, log),
            "agent-kill": lambda _, log: self._lose(self._front.agent(), signal.SIGKILL, log),
            "rank-pause": lambda fault, log: self._pause(self._rank(fault), fault.lasts_s, log),
            "agent-pause": lambda fault, log: self._pause(self._front.agent(), fault.lasts_s, log),
            "front-pause": lambda fault, log: self._pause(psutil.Process(self._front.pid), fault.lasts_s, log),
            "front-kill": lambda _, log: self._kill_front(log),
        }
        with contextlib.suppress(psutil.NoSuchProcess):  # it went by itself: the group is on its way down already
            await doers[fault.kind](fault, log)

    def _rank(self, fault: Fault) -> psutil.Process | None:
        ranks = self._front.ranks()
        return ranks[int(fault.amount * len(ranks))] if ranks else None

    async def _lose(self, process: psutil.Process | None, number: signal.Signals, log: FaultLog) -> None:
        """End or freeze a process that the group cannot do without, and wait until the server knows."""
        if process is None:
            return
        log.time = time.monotonic()
        process.send_signal(number)
        self.done.append(log)
        while time.monotonic() < log.time + NOTICE_S:
            with contextlib.suppress(grpc.aio.AioRpcError):
                if not (await self._api.info()).ready:
                    log.red_s = time.monotonic() - log.time
                    return
            await asyncio.sleep(0.02)
        self._history.complaints.append(f"{log.kind}: the server did not notice within {NOTICE_S:g} s")
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()

    async def _pause(self, process: psutil.Process | None, seconds: float, log: FaultLog) -> None:
        """Freeze a process for a while that nobody should mind."""
        if process is None:
            return
        log.time = time.monotonic()
        process.suspend()
        self.done.append(log)
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    async def _kill_front(self, log: FaultLog) -> None:
        log.time = time.monotonic()
        self._front.kill()
        self.done.append(log)
        self._front.start()

    async def _wait_for_work(self, stop: asyncio.Event) -> list:
        """Return what runs, once the group is up and works; or nothing, when it takes too long."""
        deadline = time.monotonic() + CHANCE_S
        while not stop.is_set():
            if self._front.has_exited:
                self._history.complaints.append(f"the front ended by itself:\n{self._front.log()[-3000:]}")
                self._front.start()
            with contextlib.suppress(grpc.aio.AioRpcError):
                if (await self._api.info()).ready and (running := await self._api.running()):
                    return running
            if time.monotonic() > deadline:
                self._history.complaints.append(f"nothing ran for {CHANCE_S:g} s")
                return []
            await asyncio.sleep(0.1)
        return []

    # ---- strangers ----

    async def _flood(self, requests: int) -> None:
        """Bad requests as fast as they go, past the proxy."""
        rpcs = [rpc for rpc in public_rpcs() if not rpc.streams and rpc.name != "PullFrames"]
        api = Api(self._front.address)

        async def ask(number: int) -> None:
            rpc = rpcs[number % len(rpcs)]
            method = api.channel.unary_unary(rpc.path, request_serializer=None, response_deserializer=None)
            try:
                await method(self._mutator.garbage() + b"\xff", timeout=20)
                self.flood_statuses["OK"] += 1
            except grpc.aio.AioRpcError as error:
                reason = reason_of(error)
                self.flood_statuses[f"{error.code().name} / {reason}" if reason else error.code().name] += 1
                if reason == "INTERNAL":
                    self._history.complaints.append(f"a flood: {rpc.name} answered INTERNAL")

        try:
            for begin in range(0, requests, _FLOOD_AT_ONCE):
                await asyncio.gather(*map(ask, range(begin, min(requests, begin + _FLOOD_AT_ONCE))))
        finally:
            await api.close()


def find_recoveries(faults: list[FaultLog], history: History) -> None:
    """Fill in how long each fault kept the running generation from its next frame."""
    for log in faults:
        times = [
            receipt.time
            for reader in history.readers
            if reader.generation_id == log.generation_id
            for stream in reader.streams
            for receipt in stream.receipts
            if receipt.index >= log.frames_before and receipt.time > log.time
        ]
        log.recovery_s = min(times) - log.time if times else None


def _weather(fault: Fault) -> Weather:
    if fault.kind == "delay":
        return Weather(delay_s=fault.amount)
    if fault.kind == "slow":
        return Weather(bytes_per_s=fault.amount)
    if fault.kind == "crumbs":
        return Weather(piece_bytes=int(fault.amount))
    return Weather(silent=True)


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    """Sleep, unless it is time to stop."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
