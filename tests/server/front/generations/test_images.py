"""Images of generations: on disk before the client is told, handed out with every order, gone with the end."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.server.fakes import normalised_spec, until
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf.v1 import generation_pb2
from vinf_server.front.engine.dispatcher import Dispatcher
from vinf_server.front.engine.group import Group
from vinf_server.front.engine.image_supply import ImageSupply
from vinf_server.front.errors import DiskFullError, RequestIdReusedError
from vinf_server.front.generations import images as module
from vinf_server.front.generations.generation import CANCELLING
from vinf_server.front.generations.generations import Generations
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.retention import Retention, missing_bytes, stored_bytes
from vinf_server.front.generations.store import SqliteStore

pytestmark = pytest.mark.fast

REQUEST_ID = "123e4567-e89b-12d3-a456-426614174000"
SIZE = 64 * 64 * 3
PIXELS = {0: b"\x01" * SIZE, 15: b"\x02" * SIZE}


@pytest.fixture(autouse=True)
def known_model(metrics):
    metrics.model_is_known("scripted", world_size=2, dtype="float32")


def spec(digest="ab"):
    conditions = [generation_pb2.ImageCondition(frame_index=frame, image_sha256=digest) for frame in PIXELS]
    return normalised_spec(image_conditions=conditions, seed=7)


def create(generations, *, request_id="", **changes):
    return generations.create(spec(**changes), request_id=request_id, validate_only=False, images=PIXELS)[0]


def file_of(generation):
    return generation.frames.path.with_name("images.rgb24")


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


@asynccontextmanager
async def reopened(generations, store, spool, checkpoints, metrics, tmp_path):
    """What the next server finds."""
    await store.flush()
    another = SqliteStore(tmp_path / "vinf.db")
    others = Generations(
        store=another,
        queue=GenerationQueue(3),
        spool=spool,
        checkpoints=checkpoints,
        disk=generations.keeper._disk,
        retention=Retention(),
        metrics=metrics,
    )
    await others.restore()
    try:
        yield others
    finally:
        another.close()


async def order_of(generations, generation):
    """The order as it leaves the front, or the report that stands for it."""
    group = Group(1, 2)
    Dispatcher(generations, frame_timeout_s=30).group_ready(group)
    order = await group.next_order()
    assert order.generate.generation_id == generation.generation_id
    assert not any(condition.pixels for condition in order.generate.image_conditions)
    return order, await ImageSupply(generations).fill(order)


def pixels_in(order):
    return {condition.frame_index: condition.pixels for condition in order.generate.image_conditions}


def test_they_are_on_disk_once_the_client_is_told_and_in_every_order(
    generations, store, spool, checkpoints, metrics, tmp_path
):
    async def scenario():
        generation = create(generations)
        unstored = missing_bytes(generation)
        assert stored_bytes(generation) == 0
        # An order may leave before they are on disk.
        assert not file_of(generation).exists()
        order, failed = await order_of(generations, generation)
        assert failed is None
        assert pixels_in(order) == PIXELS
        await generations.settle(generation)
        assert file_of(generation).exists()
        assert (file_of(generation).stat().st_mode & 0o777) == 0o600
        assert not generation.images._held
        assert (stored_bytes(generation), missing_bytes(generation)) == (2 * SIZE, unstored - 2 * SIZE)
        # The next server: another group, the same pixels.
        async with reopened(generations, store, spool, checkpoints, metrics, tmp_path) as others:
            await others.verify()
            again = others.get(generation.generation_id)
            assert stored_bytes(again) == 2 * SIZE
            order, failed = await order_of(others, again)
            assert failed is None
            assert pixels_in(order) == PIXELS

    run(scenario())


def test_they_go_when_the_generation_ends(generations, store, spool, checkpoints, metrics, tmp_path):
    async def scenario():
        first, second = create(generations), create(generations)
        await generations.settle(first)
        kept = file_of(first).read_bytes()
        generations.cancel(first.generation_id)
        # Cancelled before it was stored: the write is not left behind either.
        generations.cancel(second.generation_id)
        await generations.settle(second)
        await asyncio.get_running_loop().shutdown_default_executor()
        assert not file_of(first).parent.exists()
        assert not file_of(second).parent.exists()
        assert stored_bytes(first) == stored_bytes(second) == 0
        # A server that was killed just then leaves it to the next one.
        file_of(first).parent.mkdir()
        file_of(first).write_bytes(kept)

    run(scenario())

    async def next_server():
        async with reopened(generations, store, spool, checkpoints, metrics, tmp_path) as others:
            await asyncio.get_running_loop().shutdown_default_executor()
            assert all(not file_of(generation).exists() for generation in others._store.all())

    run(next_server())


@pytest.mark.parametrize("damage", ["gone", "short", "changed"])
def test_a_damaged_file_fails_its_generation_with_a_reason(generations, damage):
    async def scenario():
        generation = create(generations)
        await generations.settle(generation)
        path = file_of(generation)
        data = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(data[:-1] if damage == "short" else data[:5] + b"\xff" + data[6:])
        _, failed = await order_of(generations, generation)
        assert (failed.finished.outcome, failed.finished.reason) == (pb.OUTCOME_FAILED, "IMAGE_DAMAGED")
        assert "its images cannot be read from the server's disk" in failed.finished.message

    run(scenario())


def test_a_disk_that_takes_no_image_takes_no_generation(generations, monkeypatch):
    def full(path, images):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)

    async def scenario():
        generation = create(generations)
        with pytest.raises(DiskFullError, match="No space left"):
            await generations.settle(generation)
        assert generations.find(generation.generation_id) is None
        assert generations.waiting_count == 0

    run(scenario())


@pytest.mark.parametrize("refused", ["file", "folder"])
def test_a_disk_that_takes_half_of_them_keeps_nothing(generations, monkeypatch, refused):
    fsync = os.fsync

    def full(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (refused == "folder"):
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(module.os, "fsync", full)

    async def scenario():
        running, waiting = create(generations), create(generations)
        assert generations.start_next() is running
        for generation in (waiting, running):
            with pytest.raises(DiskFullError, match="No space left"):
                await generations.settle(generation)
            assert not generation.images._held
        assert running.state == CANCELLING
        generations.cancelled(running)
        await asyncio.get_running_loop().shutdown_default_executor()
        for generation in (waiting, running):
            assert not file_of(generation).parent.exists()

    run(scenario())


def test_their_names_outlive_the_machine(generations, monkeypatch):
    flushed, fsync = [], os.fsync

    def noted(descriptor):
        is_named = file_of(generation).exists()
        flushed.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), is_named))
        fsync(descriptor)

    monkeypatch.setattr(module.os, "fsync", noted)
    generation = create(generations)
    run(generations.settle(generation))
    path = file_of(generation)
    assert flushed == [
        (path.with_suffix(".unfinished"), False),
        (path.parent, True),
        (path.parent.parent, True),
    ]


@pytest.mark.parametrize("is_idle", [True, False])
def test_a_server_killed_before_they_are_on_disk_leaves_nothing_to_the_next_one(
    generations, store, tmp_path, monkeypatch, is_idle
):
    begun, may_go, write = threading.Event(), threading.Event(), module._write

    def held(path, images):
        begun.set()
        assert may_go.wait(10)
        write(path, images)

    def rows():
        with closing(sqlite3.connect(tmp_path / "vinf.db")) as connection:
            return connection.execute(
                "SELECT generation_id, count(*) FROM generations JOIN events USING (generation_id) GROUP BY 1"
            ).fetchall()

    monkeypatch.setattr(module, "_write", held)

    async def scenario():
        generation = create(generations)
        if is_idle:
            assert generations.start_next() is generation
        settling = asyncio.create_task(generations.settle(generation))
        await asyncio.to_thread(begun.wait, 10)
        await store.flush()
        assert rows() == []
        may_go.set()
        await settling
        assert rows() == [(generation.generation_id, 1 + is_idle)]

    run(scenario())


@pytest.mark.parametrize("does_fit", [True, False])
def test_a_client_that_goes_away_stops_no_write(
    generations, store, spool, checkpoints, metrics, tmp_path, monkeypatch, does_fit
):
    begun, may_go, write = threading.Event(), threading.Event(), module._write

    def held(path, images):
        begun.set()
        assert may_go.wait(10)
        if not does_fit:
            raise OSError(28, "No space left on device")
        write(path, images)

    monkeypatch.setattr(module, "_write", held)

    async def scenario():
        generation = create(generations)
        settling = asyncio.create_task(generations.settle(generation))
        await asyncio.to_thread(begun.wait, 10)
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
        may_go.set()
        await until(lambda: generation.generation_id not in generations._unsettled)
        assert file_of(generation).exists() == does_fit
        assert generations.waiting_count == does_fit
        async with reopened(generations, store, spool, checkpoints, metrics, tmp_path) as others:
            assert len(others._store.all()) == does_fit

    run(scenario())


def test_one_that_is_deleted_while_they_are_written_stays_away(generations, store, tmp_path, monkeypatch):
    begun, may_go = threading.Event(), threading.Event()

    def held(path, images):
        begun.set()
        assert may_go.wait(10)

    monkeypatch.setattr(module, "_write", held)

    async def scenario():
        generation = create(generations)
        settling = asyncio.create_task(generations.settle(generation))
        await asyncio.to_thread(begun.wait, 10)
        generations.cancel(generation.generation_id)
        await generations.delete(generation.generation_id)
        may_go.set()
        await settling
        with closing(SqliteStore(tmp_path / "vinf.db")) as another:
            assert not another.saved

    run(scenario())


def test_a_request_id_is_for_the_same_images(generations):
    generation = create(generations, request_id=REQUEST_ID)
    assert create(generations, request_id=REQUEST_ID) is generation
    with pytest.raises(RequestIdReusedError):
        create(generations, request_id=REQUEST_ID, digest="cd")


def test_only_checked_keeps_nothing(generations):
    generation, _ = generations.create(spec(), request_id="", validate_only=True, images=PIXELS)
    assert generation.generation_id == ""
    assert not file_of(generation).parent.exists()
    assert generations.waiting_count == 0
