"""Generations in the database: written in order, read back as they were, never half."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace

import pytest

from tests.server.fakes import create, normalised_spec
from vinf.v1 import generation_pb2
from vinf_server.front.errors import DiskFullError, GenerationNotFoundError
from vinf_server.front.generations import schema
from vinf_server.front.generations.generation import (
    CANCELLED,
    PENDING,
    SUCCEEDED,
    SUSPENDED,
    Failure,
    Terms,
)
from vinf_server.front.generations.generations import Generations
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.retention import Retention
from vinf_server.front.generations.store import SqliteStore, StoreError

pytestmark = pytest.mark.fast

REQUEST_ID = "123e4567-e89b-12d3-a456-426614174000"
TERMS = Terms(
    owner="ann",
    priority=7,
    lease_s=60.0,
    deadline_ns=5,
    retention_frame_count=64,
    labels=(("a", "ü"),),
    preview_interval_steps=3,
)


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


@pytest.fixture
def reopen(tmp_path, store, spool, checkpoints, metrics, generations):
    """Generations as the next server finds them; the one before was killed once it had committed."""
    stores = []

    async def reopened(*, capacity=3):
        await (stores or [store])[-1].flush()
        stores.append(SqliteStore(tmp_path / "vinf.db"))
        others = Generations(
            store=stores[-1],
            queue=GenerationQueue(capacity),
            spool=spool,
            checkpoints=checkpoints,
            disk=generations.keeper._disk,
            retention=Retention(),
            metrics=metrics,
        )
        await others.restore()
        return others

    yield reopened
    for opened in stores:
        opened.close()


def test_everything_about_a_generation_comes_back(generations, reopen):
    async def scenario():
        generation, _ = generations.create(normalised_spec(seed=7), TERMS, request_id=REQUEST_ID, validate_only=False)
        generations.start_next()
        generations.planned(generation, [9, 7], 2)
        await generation.frames.write(0, 0, bytes(12288), frame_size=12288)
        generations.frame_stored(generation)
        generation.peak_memory_bytes = (1 << 40, 2)
        generations.fail(generation, Failure(14, "WORKER_LOST", "rank 1 is gone", {"rank": "1"}))
        (again,) = (await reopen()).page(before_id="", states=(), limit=9)
        assert again is not generation
        for name in (
            *("generation_id", "request_id", "normalised_spec", "resolved_spec", "terms", "state", "state_reason"),
            *("events", "failure", "clip_frame_counts", "texts_at_once", "peak_memory_bytes", "create_time_ns"),
            *("start_time_ns", "first_frame_time_ns", "end_time_ns"),
        ):
            assert getattr(again, name) == getattr(generation, name), name
        assert (again.frames.completed_count, again.frames.next_missing) == (1, 1)

    run(scenario())


def test_the_queue_keeps_its_order_with_the_running_one_in_front(generations, reopen):
    async def scenario():
        first, second, third = (create(generations) for _ in range(3))
        assert generations.start_next() is first
        others = await reopen(capacity=1)  # a smaller queue than those that wait turns nobody away
        waiting = [others.get(generation.generation_id) for generation in (first, second, third)]
        assert [others.queue_position(generation) for generation in waiting] == [0, 1, 2]
        assert [generation.state_reason for generation in waiting] == ["SERVER_RESTARTED", "QUEUED", "QUEUED"]
        assert others.start_next() is None, "frames were not looked at yet"
        await others.verify()
        assert others.start_next() is waiting[0]
        for generation in waiting[1:]:
            others.cancel(generation.generation_id)
        assert create(others).generation_id > third.generation_id

    run(scenario())


def test_states_that_nobody_works_on_any_more(generations, reopen):
    async def scenario():
        cancelling, suspended = create(generations), create(generations)
        generations.start_next()
        generations.cancel(cancelling.generation_id)
        generations.cancelled(cancelling)
        generations.start_next()
        generations.suspend(suspended, "DISK_FULL", "no room")
        others = await reopen()
        assert others.get(cancelling.generation_id).state == CANCELLED
        found = others.get(suspended.generation_id)
        assert (found.state, found.state_reason, others.waiting_count) == (SUSPENDED, "DISK_FULL", 0)
        await others.verify()
        await others.tidy()
        assert found.state == PENDING
        assert others.start_next() is found
        others.cancel(found.generation_id)
        assert (await reopen()).get(suspended.generation_id).state == CANCELLED, "CANCELLING when the server died"

    run(scenario())


def test_same_request_id_after_a_restart_is_the_same_generation(generations, reopen):
    async def scenario():
        generation = create(generations, request_id=REQUEST_ID)
        others = await reopen()
        again, deduplicated = others.create(normalised_spec(), request_id=REQUEST_ID, validate_only=False)
        assert (again.generation_id, deduplicated) == (generation.generation_id, True)

    run(scenario())


def test_a_forgotten_one_does_not_come_back(generations, reopen):
    async def scenario():
        generation, kept = create(generations, request_id=REQUEST_ID), create(generations)
        generations.cancel(generation.generation_id)
        await generations.delete(generation.generation_id)
        others = await reopen()
        assert [g.generation_id for g in others.page(before_id="", states=(), limit=9)] == [kept.generation_id]
        with pytest.raises(GenerationNotFoundError):
            others.get(generation.generation_id)
        assert others._store.find_request("", REQUEST_ID) is None

    run(scenario())


def test_a_new_generation_that_the_disk_refuses_is_taken_back(generations, store, monkeypatch, reopen):
    async def scenario():
        kept = create(generations)
        await generations.settle(kept)
        refuse = schema.execute

        def full(connection, statements):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(schema, "execute", full)
        lost = create(generations, request_id=REQUEST_ID)
        with pytest.raises(DiskFullError, match="disk is full"):
            await generations.settle(lost)
        assert generations.find(lost.generation_id) is None
        assert generations.waiting_count == 1
        generations.start_next()
        with pytest.raises(StoreError):
            await store.flush()
        monkeypatch.setattr(schema, "execute", refuse)
        # Changes of what is kept were not given up.
        others = await reopen()
        assert [g.generation_id for g in others.page(before_id="", states=(), limit=9)] == [kept.generation_id]
        assert others.get(kept.generation_id).state_reason == "SERVER_RESTARTED"

    run(scenario())


def test_changes_made_during_a_transaction_share_the_next_one(store, generations, monkeypatch):
    async def scenario():
        transactions = []
        execute = schema.execute

        def counted(connection, statements):
            transactions.append(len(statements))
            execute(connection, statements)

        monkeypatch.setattr(schema, "execute", counted)
        generation = create(generations)
        for _ in range(500):
            store.save(generation)
        await store.flush()
        assert sum(transactions) == 502
        assert len(transactions) < 100

    run(scenario())


def test_who_gives_up_waiting_takes_nobody_along(store, generations, monkeypatch):
    """Several wait for one transaction, and what is in it is saved whoever waits."""

    async def scenario():
        may_go_on = threading.Event()
        execute = schema.execute

        def held_up(connection, statements):
            assert may_go_on.wait(20)
            execute(connection, statements)

        monkeypatch.setattr(schema, "execute", held_up)
        create(generations)  # held up, so that what comes now shares the next transaction
        impatient, patient = (asyncio.ensure_future(store.flush()) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        may_go_on.set()
        await patient
        await store.flush()

    run(scenario())


def test_tables_are_made_from_nothing_and_migrated_once(tmp_path):
    path = tmp_path / "new.db"
    for _ in range(2):
        SqliteStore(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "new.db"
    SqliteStore(path).close()
    broken = (*schema.MIGRATIONS, ("CREATE TABLE more (x INTEGER)", "NONSENSE"))
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    with pytest.raises(StoreError, match="NONSENSE"):
        SqliteStore(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(broken) - 1,)
    assert "more" not in {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    monkeypatch.undo()
    SqliteStore(path).close()


def test_terms_of_before_there_were_previews_ask_for_none(tmp_path, store, generations, reopen):
    async def scenario():
        generation, _ = generations.create(normalised_spec(), TERMS, request_id="", validate_only=False)
        await store.flush()
        with closing(sqlite3.connect(tmp_path / "vinf.db")) as connection:
            connection.execute("UPDATE generations SET terms = json_remove(terms, '$.preview_interval_steps')")
            connection.execute("PRAGMA user_version = 1")
            connection.commit()
        again = (await reopen()).get(generation.generation_id)
        with closing(sqlite3.connect(tmp_path / "vinf.db")) as connection:
            ((terms,),) = connection.execute("SELECT terms FROM generations")
        assert json.loads(terms)["preview_interval_steps"] == 0
        assert again.terms == replace(TERMS, preview_interval_steps=0)

    run(scenario())


def test_a_request_of_before_scopes_had_a_noise_and_a_choice_is_known_again(tmp_path, store, generations, reopen):
    async def scenario():
        generation = create(generations, request_id=REQUEST_ID, seed=7)
        await store.flush()
        old = normalised_spec(seed=7)
        old.temporal_scope.ClearField("initial_noise")
        old.temporal_scope.ClearField("global_choice")
        with closing(sqlite3.connect(tmp_path / "vinf.db")) as connection:
            data = old.SerializeToString()
            connection.execute("UPDATE generations SET normalised_spec = ?, resolved_spec = ?", (data, data))
            connection.commit()
        others = await reopen()
        again, deduplicated = others.create(normalised_spec(seed=7), request_id=REQUEST_ID, validate_only=False)
        assert (again.generation_id, deduplicated) == (generation.generation_id, True)
        assert again.resolved_spec == normalised_spec(seed=7)

    run(scenario())


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "vinf.txt"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        SqliteStore(path)


def test_what_was_committed_is_read_from_the_log_of_a_killed_server(tmp_path, store, generations, reopen):
    async def scenario():
        generation = create(generations)
        generations.start_next()
        await store.flush()
        assert (tmp_path / "vinf.db-wal").stat().st_size > 0
        # The last transaction was cut off on its way.
        for suffix, torn in (("", b""), ("-wal", b"torn" * 100)):
            (tmp_path / f"copy.db{suffix}").write_bytes((tmp_path / f"vinf.db{suffix}").read_bytes() + torn)
        copy = SqliteStore(tmp_path / "copy.db")
        assert [saved.generation_id for saved in copy.saved] == [generation.generation_id]
        assert len(copy.saved[0].events) == 2
        copy.close()

    run(scenario())


def test_only_what_has_ended_expires_and_the_oldest_first(generations):
    async def scenario():
        made = []
        for end in (3, 1, 2):
            made.append(create(generations))
            generations.cancel(made[-1].generation_id)
            made[-1].end_time_ns = end * 10**9
        running = create(generations)
        assert Retention(keep_for_s=None, keep_count=2).expired(made, 10**12) == [made[1]]
        by_age = Retention(keep_for_s=10, keep_count=9)
        assert by_age.expired(made, 12 * 10**9) == [made[1], made[2]]
        assert by_age.expire_time_ns(made[0]) == 13 * 10**9
        assert by_age.expire_time_ns(running) == 0
        generations.keeper._retention = by_age
        await generations.tidy()
        assert generations.page(before_id="", states=(), limit=9) == [running]
        assert all(generation.is_forgotten for generation in made)

    run(scenario())


def test_what_was_promised_to_others_is_not_promised_again(generations, tmp_path):
    size = 64 * 64 * 3 + 64 * 64 * 4

    async def scenario():
        generations.keeper._disk.budget_bytes = 40 * size
        first = create(generations, frame_count=16)
        create(generations, frame_count=16)
        with pytest.raises(DiskFullError) as caught:
            create(generations, frame_count=16)
        assert caught.value.metadata == {"neededBytes": str(16 * size), "freeBytes": str(8 * size)}
        assert caught.value.retry_s > 0
        generations.cancel(first.generation_id)
        await generations.keeper.look()
        assert create(generations, frame_count=16).state != SUCCEEDED

    run(scenario())


def test_between_two_looks_nothing_is_promised_twice_and_nobody_looks(generations, monkeypatch):
    size = 64 * 64 * 3 + 64 * 64 * 4

    async def scenario():
        generations.keeper._disk.budget_bytes = 40 * size
        await generations.keeper.look()
        monkeypatch.setattr(generations.keeper._disk, "room_bytes", None)
        create(generations, frame_count=16)
        create(generations, frame_count=16)
        with pytest.raises(DiskFullError) as caught:
            create(generations, frame_count=16)
        assert caught.value.metadata["freeBytes"] == str(8 * size)

    run(scenario())


def test_nothing_is_admitted_after_the_disk_refused_before_somebody_looks(generations):
    async def scenario():
        create(generations)
        running = generations.start_next()
        generations.suspend(running, "DISK_FULL", "no room")
        with pytest.raises(DiskFullError):
            create(generations)
        await generations.keeper.look()
        create(generations)

    run(scenario())


def test_events_name_their_states(generations):
    generation = create(generations)
    generations.cancel(generation.generation_id)
    assert [(event.sequence, event.state) for event in generation.events] == [
        (1, generation_pb2.GENERATION_STATE_PENDING),
        (2, generation_pb2.GENERATION_STATE_CANCELLED),
    ]
