"""The log says what it means, whatever it is given."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from vinf_server import logs
from vinf_server.logs import JsonFormatter, SafeFormatter, bound, escape, is_worth_a_line, words_of

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red ball, größer, 🎬", "a red ball, größer, 🎬"),
        ("nul\x00bell\x07escape\x1b[31m", r"nul\x00bell\x07escape\x1b[31m"),
        ("return\rtab\tdelete\x7fnext\x85", r"return\rtab\tdelete\x7fnext\x85"),
        ("\u202egnp.exe\u2066\u200f", r"\u202egnp.exe\u2066\u200f"),
        ("\u2028\u2029\udcff", r"\u2028\u2029\udcff"),
    ],
)
def test_case_4_what_could_mislead_is_escaped(text, shown):
    assert escape(text) == shown
    assert escape(text).encode()


def test_case_4_no_text_looks_like_a_line_of_ours():
    formatter = SafeFormatter("%(levelname)s front: %(message)s")
    try:
        raise ValueError("first\nERROR front: forged")
    except ValueError:
        record = logging.LogRecord(
            "x", logging.INFO, "file", 1, "it said %s", ("a\r\nINFO front: vinf is ready",), sys.exc_info()
        )
    lines = formatter.format(record).split("\n")
    assert lines[0] == r"INFO front: it said a\r"
    assert all(line.startswith("  ") for line in lines[1:])
    assert "  ERROR front: forged" in lines


def test_case_26_a_client_that_dies_leaves_no_traceback():
    def record(message, *arguments):
        return logging.LogRecord("x", logging.ERROR, "file", 1, message, arguments, None)

    rpc = "/vinf.v1.VideoGenerationService/StreamFrames"
    assert not is_worth_a_line(record(f"ExecuteBatchError raised in core by servicer method [{rpc}]"))
    assert is_worth_a_line(record("Unexpected [%s] raised by servicer method [%s]", "ValueError", rpc))


def line(message, *arguments, level=logging.INFO, error=None, formatter=None, **extra):
    """What JSON makes of a record."""
    record = logging.LogRecord("vinf_server.x", level, "file", 1, message, arguments, error)
    record.__dict__.update(extra)
    text = (formatter or JsonFormatter("front")).format(record)
    assert "\n" not in text
    assert text.isascii()
    return json.loads(text)


def test_a_line_of_json_has_what_a_machine_looks_for():
    found = line("generation %s waits for rank %d, %d%% of epoch %d", "id-1", 3, 50, 7, level=logging.WARNING)
    assert found.pop("timestamp").endswith("+00:00")
    assert found == {
        "level": "WARNING",
        "logger": "vinf_server.x",
        "source": "front",
        "message": "generation id-1 waits for rank 3, 50% of epoch 7",
        "generation_id": "id-1",
        "rank": 3,
        "epoch": 7,
    }


def test_what_is_bound_or_given_is_on_the_line():
    with bound(trace_id="abc", request_id="r-1"), bound(request_id="r-2"):
        found = line("x", generation_id="id-2")
    assert (found["trace_id"], found["request_id"], found["generation_id"]) == ("abc", "r-2", "id-2")
    assert "request_id" not in line("x")
    found = line("x", formatter=JsonFormatter("rank", rank=1, epoch=2))
    assert (found["source"], found["rank"], found["epoch"]) == ("rank", 1, 2)


def test_the_trace_of_a_generation_is_looked_up(monkeypatch):
    monkeypatch.setattr(logs, "trace_id_of", lambda generation_id: {"id-1": "abc"}.get(generation_id, ""))
    assert line("generation %s is queued", "id-1")["trace_id"] == "abc"
    assert "trace_id" not in line("generation %s is queued", "id-2")


def test_no_text_makes_a_line_or_names_another_generation():
    text = 'a ball"}\n{"level": "ERROR", "generation_id": "forged"}\r\u2028\udcff generation %s rank 9'
    found = line("it said %s", text)
    assert found["message"] == f"it said {text}"
    assert "generation_id" not in found
    assert "rank" not in found


def test_an_error_is_a_field():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        found = line("it failed", error=sys.exc_info())
    assert found["message"] == "it failed"
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("ValueError: first\nsecond")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  RuntimeError: no memory ", "RuntimeError: no memory"),
        (
            '{"message": "the rank fails", "exception": "Traceback\\n  x\\nRuntimeError: no memory"}',
            "RuntimeError: no memory",
        ),
        ('{"message": "lost the front: orders"}', "lost the front: orders"),
        ('{"other": 1}', '{"other": 1}'),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_what_a_rank_said_last_is_for_people(text, words):
    assert words_of(text) == words
