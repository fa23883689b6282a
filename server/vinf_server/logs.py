"""The log of the front: text from outside cannot pass for a line of ours, nor steer a terminal."""

from __future__ import annotations

import logging
import re
import sys

# Control characters but the line feed; marks that change the direction of text; the line separators of Unicode.
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """Leave out what gRPC logs as an error, with a traceback, when a client dies while a message is sent to it."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core by servicer method")


class SafeFormatter(logging.Formatter):
    """Escapes what could mislead a reader, and indents every line but the first of a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return escape(super().format(record)).replace("\n", "\n  ")


def escape(text: str) -> str:
    """Write unsafe characters as their numbers, such as ``\\x00`` and ``\\u202e``."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def configure_logs() -> None:
    """Send records of level INFO and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(is_worth_a_line)
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s front: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
