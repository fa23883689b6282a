"""Readers and watchers in a process of their own, so that they take nothing from the one that measures but its CPU."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import grpc

from vinf.v1 import generation_pb2
from vinf.v1 import video_generation_service_pb2 as service_pb2
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub

if TYPE_CHECKING:
    from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceAsyncStub  # only the types have it

_CHANNELS = 4
"""Connections that calls are spread over."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients do until they are told otherwise."""

    readers: int = 0
    video: str = ""
    """What they read, from the first frame to the last and again from the first."""

    frames_per_second: float = 0.0
    """Of each reader; 0: as fast as it can."""

    watchers: int = 0
    waiting: str = ""
    """What they watch."""

    creators: int = 0
    """Clients that ask for generations."""
    wanted: generation_pb2.GenerationSpec = field(default_factory=generation_pb2.GenerationSpec)
    """What they ask for."""
    creates_per_second: float = 5.0
    """Of each of them, whatever the answer."""


def put_load(pipe: Connection, address: str) -> None:
    """Take a `Load` from the pipe, answer when it is on, keep it up until the next; None ends the process.

    The answer to each further message is what was received meanwhile, in bytes of frames.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent ends us
    asyncio.run(_put_load(pipe, address))


async def _put_load(pipe: Connection, address: str) -> None:
    loop = asyncio.get_running_loop()
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(_CHANNELS)]
    stubs = [VideoGenerationServiceStub(channel) for channel in channels]
    while (load := await loop.run_in_executor(None, pipe.recv)) is not None:
        clients = _Clients(load)
        tasks = [asyncio.create_task(clients.read(stubs[n % _CHANNELS], n)) for n in range(load.readers)]
        tasks += [asyncio.create_task(clients.watch(stubs[n % _CHANNELS])) for n in range(load.watchers)]
        tasks += [asyncio.create_task(clients.create(stubs[n % _CHANNELS], n)) for n in range(load.creators)]
        await clients.all_connected()
        pipe.send(None)
        await loop.run_in_executor(None, pipe.recv)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, grpc.aio.AioRpcError):
                raise result
        pipe.send(clients.received_bytes)
    for channel in channels:
        await channel.close()


class _Clients:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._missing = load.readers + load.watchers + load.creators
        self._connected = asyncio.Event()
        self.received_bytes = 0
        if not self._missing:
            self._connected.set()

    async def all_connected(self) -> None:
        await self._connected.wait()

    async def read(self, stub: VideoGenerationServiceAsyncStub, number: int) -> None:
        request = service_pb2.StreamFramesRequest(generation_id=self._load.video)
        interval = 1 / self._load.frames_per_second if self._load.frames_per_second else 0.0
        # Readers of real videos do not beat in step.
        due, is_first = time.monotonic() + number * interval / self._load.readers, True
        while True:
            async for message in stub.StreamFrames(request):
                if is_first:
                    self._note_connected()
                    is_first = False
                self.received_bytes += len(message.frame.data)
                if interval and message.HasField("frame"):
                    due = next_beat(due, interval, time.monotonic())
                    await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def watch(self, stub: VideoGenerationServiceAsyncStub) -> None:
        async for _ in stub.WatchGeneration(service_pb2.WatchGenerationRequest(generation_id=self._load.waiting)):
            self._note_connected()

    async def create(self, stub: VideoGenerationServiceAsyncStub, number: int) -> None:
        request = service_pb2.CreateGenerationRequest(spec=self._load.wanted)
        interval = 1 / self._load.creates_per_second
        due, is_first = time.monotonic() + number * interval / self._load.creators, True
        while True:
            try:
                await stub.CreateGeneration(request)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
            if is_first:
                self._note_connected()
                is_first = False
            due = max(due + interval, time.monotonic() - interval)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _note_connected(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._connected.set()


def next_beat(due: float, interval: float, now: float) -> float:
    """When a reader wants its next frame: one that has fallen behind leaves beats out and keeps its own time."""
    behind = max(0, math.floor((now - due) / interval))
    return due + (1 + behind) * interval
