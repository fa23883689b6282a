"""A command on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 60.0
"""Far above what anything takes, so that only a defect meets it."""

_SEQUENCES = re.compile(rb"\x1b(?:\[[0-9;?]*[A-Za-z]|[78]|P.*?\x1b\\|_G.*?\x1b\\)", re.DOTALL)
# The terminal controls the session, as a window does: keys become signals. Not by preexec_fn, which forks this process
# with a gRPC server in it.
_LAUNCHER = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
_QUESTION = b"\x1b[c"
_COMMAND = ("-m", "vinf_client.cli")
# A terminal that answers is waited for: the thread that plays it is late on a loaded machine.
_PATIENT = "import sys; from vinf_client.cli import main, terminal; terminal._ANSWER_TIMEOUT = 30; sys.exit(main())"


class Terminal:
    """Runs `vinf` with a pseudo-terminal as standard input, output and error, in the foreground of a session.

    Args:
        arguments: of the command.
        attributes: what the terminal answers when it is asked for its device attributes; None: nothing.
        environ: set beside a plain environment; None takes a variable away.
        size: columns and rows.
    """

    def __init__(
        self,
        *arguments: str,
        attributes: bytes | None = b"\x1b[?62c",
        environ: dict[str, str] | None = None,
        size: tuple[int, int] = (100, 30),
    ) -> None:
        self._attributes = attributes
        self._output = bytearray()
        self._news = threading.Condition()
        self._ended = False
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.modes = termios.tcgetattr(slave)
        plain = {
            name: value
            for name, value in os.environ.items()
            if name not in ("TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM", "NO_COLOR", "COLUMNS", "LINES")
        }
        plain |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", **(environ or {})}
        command = _COMMAND if attributes is None else ("-c", _PATIENT)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, sys.executable, *command, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env=plain,
            start_new_session=True,
        )
        self._slave = slave  # kept: what was written is still there when the command has ended
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT_S)
        self._ended = True
        self._reader.join(TIMEOUT_S)
        os.close(self._slave)
        os.close(self.master)

    @property
    def output(self) -> bytes:
        """Everything that was written so far."""
        with self._news:
            return bytes(self._output)

    @property
    def text(self) -> str:
        """The same without what moves, colours and draws."""
        return _SEQUENCES.sub(b"", self.output).decode(errors="replace")

    def expect(self, *needles: str | bytes, after: int = 0) -> int:
        """Wait until all of these were written, from an offset on; return the length of the output.

        Raises:
            AssertionError: they do not come.
        """
        deadline = time.monotonic() + TIMEOUT_S

        def has_all() -> bool:
            data = bytes(self._output[after:])
            text = _SEQUENCES.sub(b"", data).decode(errors="replace")
            return all(needle in data if isinstance(needle, bytes) else needle in text for needle in needles)

        with self._news:
            while not has_all():
                assert self._news.wait(deadline - time.monotonic()), f"{needles} did not come:\n{self.text[-3000:]}"
            return len(self._output)

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self.master, keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def wait(self) -> int:
        """Wait for the end of the command; return its exit code once all of its output is here."""
        code = self.process.wait(TIMEOUT_S)
        self._ended = True
        self._reader.join(TIMEOUT_S)
        return code

    def is_as_it_was(self) -> bool:
        """Whether the terminal's modes are those from before the command."""
        now = termios.tcgetattr(self._slave)
        return now == self.modes

    def _read(self) -> None:
        asked = 0
        while True:
            if not select.select([self.master], [], [], 0.05)[0]:
                if self._ended:
                    return
                continue
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            with self._news:
                self._output += data
                questions = self._output.count(_QUESTION)
                self._news.notify_all()
            if questions > asked and self._attributes is not None:
                os.write(self.master, self._attributes)
            asked = questions
