"""The tables of the database, how they came to be, and generations as rows of them."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

from vinf.v1 import generation_pb2
from vinf_server.front.generations.generation import Event, Failure, Generation, State, Terms

Value: TypeAlias = str | bytes | int | None
Statement: TypeAlias = tuple[str, tuple[Value, ...]]

MIGRATIONS = (
    (
        """
        CREATE TABLE generations (
            generation_id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            request_id TEXT NOT NULL,
            normalised_spec BLOB NOT NULL,
            resolved_spec BLOB NOT NULL,
            terms TEXT NOT NULL,
            state INTEGER NOT NULL,
            state_reason TEXT NOT NULL,
            failure TEXT,
            clip_frame_counts TEXT NOT NULL,
            texts_at_once INTEGER NOT NULL,
            completed_steps INTEGER NOT NULL,
            peak_memory_bytes TEXT NOT NULL,
            create_time_ns INTEGER NOT NULL,
            start_time_ns INTEGER NOT NULL,
            first_frame_time_ns INTEGER NOT NULL,
            end_time_ns INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE events (
            generation_id TEXT NOT NULL REFERENCES generations ON DELETE CASCADE,
            sequence INTEGER NOT NULL,
            time_ns INTEGER NOT NULL,
            state INTEGER NOT NULL,
            state_reason TEXT NOT NULL,
            message TEXT NOT NULL,
            PRIMARY KEY (generation_id, sequence)
        ) STRICT, WITHOUT ROWID
        """,
    ),
    ("UPDATE generations SET terms = json_set(terms, '$.preview_interval_steps', 0)",),
)
"""What each version adds to the one before; `PRAGMA user_version` counts those that were applied. Never changed, only
appended to."""

_COLUMNS = (
    *("generation_id", "owner", "request_id", "normalised_spec", "resolved_spec", "terms", "state", "state_reason"),
    *("failure", "clip_frame_counts", "texts_at_once", "completed_steps", "peak_memory_bytes"),
    *("create_time_ns", "start_time_ns", "first_frame_time_ns", "end_time_ns"),
)
_SAVE = (
    f"INSERT INTO generations ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    f"ON CONFLICT DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[1:])}"
)
_SAVE_EVENT = "INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?, ?)"


class SchemaError(Exception):
    """The tables are not what this version knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedGeneration:
    """A generation as it was saved; the fields are those of `Generation`."""

    generation_id: str
    request_id: str
    normalised_spec: generation_pb2.GenerationSpec
    resolved_spec: generation_pb2.GenerationSpec
    terms: Terms
    state: State
    state_reason: str
    failure: Failure | None
    clip_frame_counts: tuple[int, ...]
    texts_at_once: int
    completed_steps: int
    peak_memory_bytes: tuple[int, ...]
    create_time_ns: int
    start_time_ns: int
    first_frame_time_ns: int
    end_time_ns: int
    events: tuple[Event, ...]


def prepare(connection: sqlite3.Connection) -> None:
    """Bring the tables to the newest version.

    Raises:
        SchemaError: a newer version has written them.
        sqlite3.Error: the file is no database, or cannot be written.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise SchemaError(
            f"a newer version has written it: it has tables of version {version}, {len(MIGRATIONS)} is known"
        )
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        execute(connection, [*((statement, ()) for statement in statements), (f"PRAGMA user_version = {number}", ())])


def execute(connection: sqlite3.Connection, statements: Sequence[Statement]) -> None:
    """Do all of it or nothing, or raise `sqlite3.Error`."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for text, values in statements:
            connection.execute(text, values)
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def load(connection: sqlite3.Connection) -> list[SavedGeneration]:
    """Every generation with its events, oldest first."""
    events: defaultdict[str, list[Event]] = defaultdict(list)
    for generation_id, *values in connection.execute("SELECT * FROM events ORDER BY generation_id, sequence"):
        events[generation_id].append(Event(*values))
    rows = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM generations ORDER BY generation_id")
    return [_from_row(dict(zip(_COLUMNS, row, strict=True)), events[row[0]]) for row in rows]


def save_statements(generation: Generation, *, after_event: int) -> list[Statement]:
    """What makes the database know a generation as it is now, given the events it knows already."""
    failure = generation.failure
    row: tuple[Value, ...] = (
        generation.generation_id,
        generation.terms.owner,
        generation.request_id,
        generation.normalised_spec.SerializeToString(deterministic=True),
        generation.resolved_spec.SerializeToString(deterministic=True),
        json.dumps(asdict(generation.terms)),
        generation.state,
        generation.state_reason,
        None if failure is None else json.dumps(asdict(failure)),
        json.dumps(generation.clip_frame_counts),
        generation.texts_at_once,
        generation.completed_steps,
        json.dumps(generation.peak_memory_bytes),
        generation.create_time_ns,
        generation.start_time_ns,
        generation.first_frame_time_ns,
        generation.end_time_ns,
    )
    statements: list[Statement] = [(_SAVE, row)]
    for event in generation.events[after_event:]:
        values = (event.sequence, event.time_ns, event.state, event.state_reason, event.message)
        statements.append((_SAVE_EVENT, (generation.generation_id, *values)))
    return statements


def forget_statements(generation_id: str) -> list[Statement]:
    """What makes the database forget a generation and its events."""
    return [("DELETE FROM generations WHERE generation_id = ?", (generation_id,))]


def _from_row(row: dict[str, Value], events: Sequence[Event]) -> SavedGeneration:
    values: dict[str, object] = dict(row)
    del values["owner"]  # it is among the terms
    terms = json.loads(str(row["terms"]))
    terms["labels"] = tuple((key, value) for key, value in terms["labels"])
    values["terms"] = Terms(**terms)
    values["failure"] = None if row["failure"] is None else Failure(**json.loads(str(row["failure"])))
    for name in ("normalised_spec", "resolved_spec"):
        data = row[name]
        assert isinstance(data, bytes)
        values[name] = generation_pb2.GenerationSpec.FromString(data)
    for name in ("clip_frame_counts", "peak_memory_bytes"):
        values[name] = tuple(json.loads(str(row[name])))
    return SavedGeneration(**values, events=tuple(events))  # type: ignore[arg-type]
