"""The log says what it means, whatever it is given."""

from __future__ import annotations

import logging
import sys

import pytest

from vinf_server.logs import SafeFormatter, escape, is_worth_a_line

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
