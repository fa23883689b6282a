"""The logs of front, workers and ranks: text from outside cannot pass for a line of ours, nor steer a terminal."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]

LOG_FORMATS: tuple[LogFormat, ...] = ("text", "json")

FORMAT_VARIABLE = "VINF_LOG_FORMAT"
"""Environment variable that tells ranks how to write."""

_log = logging.getLogger(__name__)

# Control characters but the line feed; marks that change the direction of text; the line separators of Unicode.
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_PLACEHOLDER = re.compile(r"(?:\b(generation|rank|epoch) )?%[-+ #0-9.]*([a-zA-Z%])")
_FIELD_NAMES = {"generation": "generation_id", "rank": "rank", "epoch": "epoch"}
_EXTRA = ("generation_id", "rank", "epoch", "request_id", "trace_id")

_bound: ContextVar[Mapping[str, object]] = ContextVar("vinf-log", default={})  # noqa: B039  # never changed

trace_id_of: Callable[[str], str] = lambda generation_id: ""  # noqa: E731
"""Finds the trace that a generation belongs to, empty where there is none; whoever makes traces puts its own here."""


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Give the lines that this task or thread writes inside the block these fields, in JSON."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """Leave out what gRPC logs as an error, with a traceback, when a client dies while a message is sent to it."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core by servicer method")


class SafeFormatter(logging.Formatter):
    """Escapes what could mislead a reader, and indents every line but the first of a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return escape(super().format(record)).replace("\n", "\n  ")


class JsonFormatter(logging.Formatter):
    """A line of JSON a record, in ASCII: whatever a text holds, it stays within its quotes."""

    def __init__(self, source: str, **fields: object) -> None:
        """Make the formatter of a process.

        Args:
            source: what it is: front, worker or rank.
            fields: what is on every line besides.
        """
        super().__init__()
        self._always = {"source": source, **fields}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **_bound.get(),
            **_fields(record),
            **{name: getattr(record, name) for name in _EXTRA if hasattr(record, name)},
        }
        if "trace_id" not in line and (trace_id := trace_id_of(str(line.get("generation_id", "")))):
            line["trace_id"] = trace_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Read off what a line is about: arguments that our own words call ``generation %s``, ``rank %d``, ``epoch %d``.

    Only the words of the program count, so no text from outside can name another generation.
    """
    if not isinstance(record.args, tuple) or not isinstance(record.msg, str):
        return {}
    arguments = iter(record.args)
    found: dict[str, object] = {}
    for match in _PLACEHOLDER.finditer(record.msg):
        if match[2] != "%":
            argument = next(arguments, None)
            if match[1] and argument is not None:
                found.setdefault(_FIELD_NAMES[match[1]], argument)
    return found


def escape(text: str) -> str:
    """Write unsafe characters as their numbers, such as ``\\x00`` and ``\\u202e``."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def configure_logs(log_format: LogFormat = "text", source: str = "front", **fields: object) -> None:
    """Send records of level INFO and above to standard error.

    In JSON what else would write there, warnings and errors that nobody caught, becomes a record, too.

    Args:
        log_format: how they are written.
        source: whose they are.
        fields: what is on every line besides, in JSON.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(is_worth_a_line)
    if log_format == "json":
        handler.setFormatter(JsonFormatter(source, **fields))
        _redirect_the_rest()
    else:
        handler.setFormatter(SafeFormatter(f"%(asctime)s %(levelname)s {source}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def words_of(line: str) -> str:
    """What a line of a log says to people: of JSON the error's last line or the message, of a text all of it."""
    try:
        fields = json.loads(line)
        text = str(fields.get("exception") or fields["message"])
    except (ValueError, TypeError, AttributeError, KeyError):
        return line.strip()
    return text.strip().rpartition("\n")[2].strip()


def _redirect_the_rest() -> None:
    logging.captureWarnings(True)
    # gRPC's own lines bypass Python; they tell nothing that we do not.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    def died(kind: Any, error: Any, traceback: Any) -> None:
        _log.critical("an error that nobody caught", exc_info=(kind, error, traceback))

    sys.excepthook = died
    threading.excepthook = lambda hook: died(hook.exc_type, hook.exc_value, hook.exc_traceback)
    sys.unraisablehook = lambda hook: died(hook.exc_type, hook.exc_value, hook.exc_traceback)
