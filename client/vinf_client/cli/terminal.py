"""What the terminal can: whether it shows pictures, and how."""

import fcntl
import os
import re
import select
import struct
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console

from vinf_client.cli.graphics import Blocks, Cells, Graphics, Kitty, Sixel

_ANSWER_TIMEOUT = 0.3  # seconds; terminals answer within one round trip of the network
_KITTY_PROGRAMS = ("ghostty",)
_SIXEL_PROGRAMS = ("mintty", "WezTerm")
_SIXEL_TERMS = ("foot", "mlterm", "yaft", "contour")
_DEVICE_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_SIXEL_ATTRIBUTE = b"4"


def choose_graphics(wanted: str, stream: TextIO) -> Graphics | None:
    """Return how to draw on the terminal behind `stream`; None when nothing shall be drawn.

    Args:
        wanted: "none", "blocks", "kitty", "sixel", or "auto" for what the terminal says it can.
        stream: where drawings go; not a terminal, or standard output not one: nothing is drawn.
    """
    if wanted == "none" or not (stream.isatty() and sys.stdout.isatty()):
        return None
    console = Console(file=stream)
    if wanted == "auto":
        wanted = _detect(os.environ, console, stream)
    match wanted:
        case "kitty":
            return Kitty()
        case "sixel":
            return Sixel()
        case "blocks":
            return Blocks(console)
        case _:
            return None


def room(stream: TextIO) -> Cells:
    """Return the size of the terminal."""
    try:
        packed = fcntl.ioctl(stream.fileno(), termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return Cells(80, 24)
    rows, columns, width, height = struct.unpack("HHHH", packed)
    if not (rows and columns):
        return Cells(80, 24)
    if width < columns or height < rows:  # most terminals do not tell their pixels
        return Cells(columns, rows)
    return Cells(columns, rows, width // columns, height // rows)


@contextmanager
def keys_at_once() -> Iterator[int]:
    """Have keys arrive one by one and unseen; gives the keyboard, whose reads do not wait."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard, termios.TCSANOW)
    modes = termios.tcgetattr(keyboard)
    # Ctrl-C empties the terminal's queue: what was there a moment ago shall not be waited for.
    modes[6][termios.VMIN], modes[6][termios.VTIME] = 0, 0
    termios.tcsetattr(keyboard, termios.TCSANOW, modes)
    try:
        yield keyboard
    finally:
        # What nobody read, such as the late rest of an answer, is not the next program's input.
        termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)


def _detect(environ: Mapping[str, str], console: Console, stream: TextIO) -> str:
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if term in ("", "dumb") or console.is_dumb_terminal:
        return "none"
    # A multiplexer passes no graphics of kitty on, and hides what the terminal around it is.
    if not ("TMUX" in environ or term.startswith(("screen", "tmux"))):
        if "KITTY_WINDOW_ID" in environ or "kitty" in term or "ghostty" in term or program in _KITTY_PROGRAMS:
            return "kitty"
        if program in _SIXEL_PROGRAMS or term.startswith(_SIXEL_TERMS):
            return "sixel"
    if _says_sixel(stream):
        return "sixel"
    has_colours = console.color_system in ("256", "truecolor") and not console.no_color
    return "blocks" if has_colours else "none"


def _says_sixel(stream: TextIO) -> bool:
    """Ask the terminal for its primary device attributes; sixel graphics are number 4."""
    try:
        keyboard = sys.stdin.fileno()
        # Who runs in the background must not touch the terminal: it would be stopped.
        if not sys.stdin.isatty() or os.tcgetpgrp(keyboard) != os.getpgrp():
            return False
    except (OSError, ValueError):
        return False
    try:
        with keys_at_once():
            stream.write("\x1b[c")
            stream.flush()
            answer = _read_answer(keyboard)
    except termios.error:
        return False
    match = _DEVICE_ATTRIBUTES.search(answer)
    return match is not None and _SIXEL_ATTRIBUTE in match[1].split(b";")


def _read_answer(keyboard: int) -> bytes:
    answer = b""
    deadline = time.monotonic() + _ANSWER_TIMEOUT
    while not _DEVICE_ATTRIBUTES.search(answer):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([keyboard], [], [], left)[0]:
            break
        answer += os.read(keyboard, 256)
    return answer
