"""Where generations are kept: all of them in memory, and every change of them in an SQLite database.

The event loop reads memory only. What it changes is handed to one thread, which writes it in the order it came in;
what came while a transaction was under way goes into the next one together. A transaction that the disk refuses is not
given up: what it held is written with the next one.

The write-ahead log is flushed with every transaction (``synchronous = FULL``): a generation has few changes of state,
and a client that was given an id may rely on it whatever happens to the machine.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from vinf_server.front.generations import schema
from vinf_server.front.generations.generation import Generation, State
from vinf_server.front.generations.schema import SavedGeneration, Statement

_log = logging.getLogger(__name__)


class StoreError(Exception):
    """The database cannot be used, or did not take a change; the message says why."""


class GenerationStore(Protocol):
    """What the front needs from a store."""

    @property
    def saved(self) -> Sequence[SavedGeneration]:
        """What was there when the store was opened, oldest first."""

    def add(self, generation: Generation, *, is_saved: bool = False) -> None:
        """Keep a generation whose id sorts after all earlier ones; `is_saved`: it is as it was saved."""

    def save(self, generation: Generation) -> None:
        """Note that a generation has changed; of one whose images are not on disk yet nothing is written."""

    def forget(self, generation: Generation) -> None:
        """Keep a generation no longer."""

    async def flush(self) -> None:
        """Wait until every change so far is on disk, or raise `StoreError`; the changes are tried again later."""

    def get(self, generation_id: str) -> Generation | None:
        """Find one by id."""

    def find_request(self, owner: str, request_id: str) -> Generation | None:
        """Find the one that a client's request_id made."""

    def all(self) -> Iterable[Generation]:
        """Every generation, oldest first."""

    def page(
        self, *, before_id: str, states: Collection[State], limit: int, owner: str | None = None
    ) -> Sequence[Generation]:
        """Up to `limit` generations, newest first, older than `before_id` (empty: from the newest).

        Only those of `owner`, unless it is None.
        """


class SqliteStore:
    """Generations in a dict, and in a database that the next server opens."""

    def __init__(self, path: Path) -> None:
        """Open or create the database and read what it holds.

        Raises:
            StoreError: it cannot be used, or a newer version has written it.
        """
        self._by_id: dict[str, Generation] = {}
        self._by_request: dict[tuple[str, str], Generation] = {}
        self._saved_events: dict[str, int] = {}
        self._lock = threading.Lock()
        self._batch: _Batch | None = None
        self._refused: list[Statement] = []
        self._connection: sqlite3.Connection | None = None
        try:
            # Prompts are nobody else's business; SQLite gives the files beside it the same mode.
            path.touch(mode=0o600)
            path.chmod(0o600)
            # Used by the thread alone from here on.
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            schema.prepare(self._connection)
            self.saved: Sequence[SavedGeneration] = schema.load(self._connection)
        except (sqlite3.Error, schema.SchemaError) as error:
            if self._connection is not None:
                self._connection.close()
            raise StoreError(f"{path}: {error}") from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    def add(self, generation: Generation, *, is_saved: bool = False) -> None:
        """Keep a generation."""
        self._by_id[generation.generation_id] = generation
        if generation.request_id:
            self._by_request[generation.terms.owner, generation.request_id] = generation
        if is_saved:
            self._saved_events[generation.generation_id] = len(generation.events)
        else:
            self.save(generation)

    def save(self, generation: Generation) -> None:
        """Note that a generation has changed."""
        if generation.images.missing_bytes:
            return  # the next server could not make it
        known = self._saved_events.get(generation.generation_id, 0)
        self._submit(schema.save_statements(generation, after_event=known))
        self._saved_events[generation.generation_id] = len(generation.events)

    def forget(self, generation: Generation) -> None:
        """Keep a generation no longer."""
        generation_id = generation.generation_id
        del self._by_id[generation_id]
        self._saved_events.pop(generation_id, None)
        request = (generation.terms.owner, generation.request_id)
        if self._by_request.get(request) is generation:
            del self._by_request[request]
        self._submit(schema.forget_statements(generation_id))

    async def flush(self) -> None:
        """Wait until every change so far is on disk."""
        try:
            # Others wait for the same transaction: who gives up waiting leaves it as it is.
            await asyncio.shield(asyncio.wrap_future(self._submit(())))
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error

    def get(self, generation_id: str) -> Generation | None:
        """Find one by id."""
        return self._by_id.get(generation_id)

    def find_request(self, owner: str, request_id: str) -> Generation | None:
        """Find the one that a client's request_id made."""
        return self._by_request.get((owner, request_id))

    def all(self) -> Iterable[Generation]:
        """Every generation, oldest first."""
        return tuple(self._by_id.values())

    def page(
        self, *, before_id: str, states: Collection[State], limit: int, owner: str | None = None
    ) -> Sequence[Generation]:
        """Up to `limit` generations, newest first."""
        page: list[Generation] = []
        for generation in reversed(self._by_id.values()):
            if before_id and generation.generation_id >= before_id:
                continue
            if states and generation.state not in states:
                continue
            if owner is not None and generation.terms.owner != owner:
                continue
            page.append(generation)
            if len(page) == limit:
                break
        return page

    def close(self) -> None:
        """Write what waits and close the database."""
        with suppress(sqlite3.Error):
            self._submit(()).result()
        self._thread.shutdown()
        assert self._connection is not None
        self._connection.close()

    # ---- inside ----

    def _submit(self, statements: Sequence[Statement]) -> Future[None]:
        """Add to the transaction that comes next; the future is done once that one is committed."""
        with self._lock:
            if self._batch is None:
                self._batch = _Batch()
                self._thread.submit(self._write)
            self._batch.statements.extend(statements)
            return self._batch.committed

    def _write(self) -> None:
        with self._lock:
            batch, self._batch = self._batch, None
        assert batch is not None
        assert self._connection is not None
        statements = [*self._refused, *batch.statements]
        try:
            if statements:
                schema.execute(self._connection, statements)
        except sqlite3.Error as error:
            self._refused = statements
            _log.error("the database did not take %d changes, they are tried again: %s", len(statements), error)
            batch.committed.set_exception(error)
        else:
            self._refused = []
            batch.committed.set_result(None)


class _Batch:
    """What goes into one transaction."""

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self.committed: Future[None] = Future()
