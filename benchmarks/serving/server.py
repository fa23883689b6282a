"""A front without ranks in a process of its own: real services over a spool that is filled beforehand."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2
from vinf_server.flag_values import Address, RankMesh
from vinf_server.front.checkpoints import CheckpointStore
from vinf_server.front.disk import DiskSpace
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.frames.spool import Spool
from vinf_server.front.generations.generation import Generation, Terms
from vinf_server.front.generations.generations import Generations
from vinf_server.front.generations.limits import ClientLimits
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.retention import Retention
from vinf_server.front.generations.store import SqliteStore
from vinf_server.front.metrics import Metrics
from vinf_server.front.rpc.health import HealthService
from vinf_server.front.rpc.server import start_public_server
from vinf_server.front.rpc.server_info import ServerInfoService
from vinf_server.front.rpc.terms import MAX_PRIORITY
from vinf_server.front.rpc.video_generation import VideoGenerationService

_MODEL = "synthetic"
_QUEUE = 4
_CREATES_PER_MINUTE = 600
"""As a server has it unless told otherwise."""

Size = tuple[int, int, int]
"""Width, height and frames of a video."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a client needs to know."""

    address: str
    videos: tuple[str, ...]
    """Ids of finished generations, in the order they were asked for."""
    waiting: str
    """Id of one that waits for ever."""


@dataclass(frozen=True, slots=True)
class Live:
    """A video that is made while it is read, of noise."""

    size: Size
    frames_per_second: float


def serve(pipe: Connection, folder: str, sizes: tuple[Size, ...]) -> None:
    """Fill a spool, serve it, send a `Served`, and end when the other side of the pipe closes.

    Each `Live` that comes through the pipe is answered with the id of a generation that begins at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent ends us
    asyncio.run(_serve(pipe, Path(folder), sizes))


async def _serve(pipe: Connection, folder: Path, sizes: tuple[Size, ...]) -> None:
    metrics, status, health = Metrics(CollectorRegistry()), EngineStatus(), HealthService()
    status.known_report = _report(sizes[0])
    (folder / "spool").mkdir()
    generations = Generations(
        store=SqliteStore(folder / "vinf.sqlite"),
        queue=GenerationQueue(_QUEUE),
        spool=Spool(folder / "spool"),
        checkpoints=CheckpointStore(folder / "checkpoints"),
        disk=DiskSpace(folder),
        retention=Retention(),
        metrics=metrics,
        limits=ClientLimits(creates_per_minute=_CREATES_PER_MINUTE),
    )
    videos = [await _fill(generations, size) for size in sizes]
    waiting = generations.create(_spec(sizes[0]), request_id="", validate_only=False)[0].generation_id
    server, address = await start_public_server(
        Address("127.0.0.1", 0),
        video_generation=VideoGenerationService(generations, status, metrics),
        server_info=ServerInfoService(generations, status, max_waiting=_QUEUE, disk_budget=0, mesh=RankMesh()),
        health=health,
        metrics=metrics,
    )
    pipe.send(Served(str(address), tuple(videos), waiting))
    makers = set()
    while (live := await _receive(pipe)) is not None:
        # Before the one that waits for ever.
        first = Terms(priority=MAX_PRIORITY)
        generation = generations.create(_spec(live.size), first, request_id="", validate_only=False)[0]
        assert generations.start_next() is generation
        makers.add(asyncio.create_task(_make(generations, generation, live)))
        pipe.send(generation.generation_id)
    for maker in makers:
        maker.cancel()
    await server.stop(None)


async def _receive(pipe: Connection) -> Live | None:
    """Return the next order, None once the other side is gone."""
    try:
        order: Live = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        return order
    except (EOFError, OSError):
        return None


async def _make(generations: Generations, generation: Generation, live: Live) -> None:
    """Make a video at its pace."""
    pixels = _noise(live.size)
    began = time.monotonic()
    for index in range(live.size[2]):
        await asyncio.sleep(max(0.0, began + index / live.frames_per_second - time.monotonic()))
        await generation.frames.write(index, 0, pixels, frame_size=len(pixels))
        generations.frame_stored(generation)
    generations.succeed(generation)


def _noise(size: Size) -> bytes:
    width, height, _ = size
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8).tobytes()


def _report(size: Size) -> link_pb2.ReadyReport:
    """What ranks would say about a model that makes such videos."""
    width, height, frame_count = size
    limits = link_pb2.ModelLimits(
        name=_MODEL,
        default_width=width,
        min_width=width,
        max_width=width,
        default_height=height,
        min_height=height,
        max_height=height,
        default_frame_count=frame_count,
        max_frame_count=frame_count,
        trained_frame_count=frame_count,
        size_multiple=1,
        default_frame_rate_num=24,
        default_frame_rate_den=1,
        default_step_count=1,
        default_guidance_scale=1.0,
        default_solver="ddim",
        solvers=["ddim"],
        default_temporal_scope=link_pb2.Scope(local_window_frames=16, global_frames=8),
        max_prompt_chars=200,
        max_prompt_words=14,
    )
    return link_pb2.ReadyReport(world_size=1, model=limits)


async def _fill(generations: Generations, size: Size) -> str:
    width, height, frame_count = size
    generation = generations.create(_spec(size), request_id="", validate_only=False)[0]
    generations.start_next()
    random = np.random.default_rng(0)
    for index in range(frame_count):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8).tobytes()
        await generation.frames.write(index, 0, pixels, frame_size=len(pixels))
        generations.frame_stored(generation)
    generations.succeed(generation)
    return generation.generation_id


def _spec(size: Size) -> generation_pb2.GenerationSpec:
    width, height, frame_count = size
    return generation_pb2.GenerationSpec(
        model=_MODEL,
        prompt="noise",
        width=width,
        height=height,
        frame_count=frame_count,
        frame_rate=generation_pb2.Rational(num=24, den=1),
        inference_step_count=1,
    )
