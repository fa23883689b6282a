"""Takes the pictures of the terminal that the documentation shows.

    python scripts/terminal_captures.py [--out docs/images]

Starts a server of its own, runs `vinf generate`, `vinf top` and `vinf doctor` on pseudo-terminals, and writes what
stands on the screens as SVG. pyte plays the terminal: the commands move the cursor and draw over what was there.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import itertools
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from vinf_client import Client
from vinf_client._local import LocalServer

PROMPT = "a red ball bouncing over the sea"
TIMEOUT = 120.0
"""Seconds until what is waited for must stand on a screen; far more than it takes."""

# As rich writes it, without fonts from elsewhere.
_FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""

_COLOURS = {"brown": "yellow", "default": None}  # pyte's names that rich does not know


class Screen:
    """A `vinf` command on a terminal, and what stands on it."""

    def __init__(self, *arguments: str, columns: int, rows: int) -> None:
        self.command = " ".join(("vinf", *(f'"{word}"' if " " in word else word for word in arguments)))
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vinf_client.cli", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**{name: value for name, value in os.environ.items() if name != "TMUX"}, **environment},
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(TIMEOUT)
        os.close(self._master)

    def run_until(self, is_there: Callable[[str], bool]) -> None:
        """Let the command go on until its screen shows something; None of it: until it ends.

        Raises:
            TimeoutError: it does not come.
        """
        deadline = time.monotonic() + TIMEOUT
        while not is_there("\n".join(self._screen.display)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.command}: {self._screen.display}")
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self._stream.feed(os.read(self._master, 65536))
                except OSError:  # the command has ended
                    return

    def save(self, path: Path, *, with_command: bool) -> None:
        """Write the screen as SVG, its empty rows at the end left out.

        Args:
            path: of the file.
            with_command: whether the line that was typed stands above.
        """
        lines = [self._line(row) for row in range(self._screen.lines)]
        while lines and not lines[-1].plain.strip():
            lines.pop()
        if with_command:
            lines.insert(0, Text.assemble(("$ ", "bold green"), self.command))
        console = Console(record=True, width=self._screen.columns, file=io.StringIO(), force_terminal=True)
        for line in lines:
            console.print(line, no_wrap=True, overflow="crop", highlight=False)
        console.save_svg(str(path), title="vinf", unique_id=path.stem, code_format=_FORMAT)

    def _line(self, row: int) -> Text:
        text = Text()
        cells = [self._screen.buffer[row][column] for column in range(self._screen.columns)]
        for looks, run in itertools.groupby(cells, lambda cell: (cell.fg, cell.bg, cell.bold, cell.reverse)):
            colour, background, bold, reverse = looks
            style = Style(color=_colour(colour), bgcolor=_colour(background), bold=bold, reverse=reverse)
            text.append("".join(cell.data for cell in run), style)
        text.rstrip()
        return text


def _colour(name: str) -> str | None:
    if name in _COLOURS:
        return _COLOURS[name]
    if name.startswith("bright"):
        name = name.removeprefix("bright")
        return f"bright_{_COLOURS.get(name, name)}"
    return f"#{name}" if len(name) == 6 and all(sign in "0123456789abcdef" for sign in name) else name


def main() -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    with (
        LocalServer(("--ranks", "2", "--device", "cpu")) as server,
        Client(server.address, token="", tls=False) as client,
    ):
        os.environ["VINF_SERVER"] = server.address
        with Screen("doctor", columns=100, rows=20) as screen:
            screen.run_until(lambda text: "generation" in text and "frames of" in text)
            screen.save(out / "doctor.svg", with_command=True)
        video = out / "capture.mp4"
        options = ["--frames", "48", "--seed", "7", "-o", video.name]
        os.chdir(out)
        with Screen("generate", PROMPT, *options, columns=100, rows=24) as screen:
            screen.run_until(lambda text: "decoding, frame" in text and "▀" in text and _frames_done(text) > 16)
            screen.save(Path("generate.svg"), with_command=True)
            screen.run_until(lambda text: "48 frames in" in text)
        Path(video.name).unlink(missing_ok=True)
        handles = [
            client.submit(PROMPT, frames=96, seed=7, detached=True),
            client.submit("a yellow star circling over the city", frames=96, detached=True),
            client.submit("a purple box sliding over the meadow", frames=96, detached=True),
        ]
        with Screen("top", columns=120, rows=20) as screen:
            screen.run_until(lambda text: "queued, 2" in text and _steps_done(text) > 3)
            screen.save(Path("top.svg"), with_command=True)
        for handle in handles:
            handle.cancel()
    return 0


def _frames_done(text: str) -> int:
    return _number_behind(text, "decoding, frame ")


def _steps_done(text: str) -> int:
    return _number_behind(text, "denoising, step ")


def _number_behind(text: str, words: str) -> int:
    found = text.partition(words)[2].split()
    return int(found[0]) if found and found[0].isdigit() else 0


if __name__ == "__main__":
    sys.exit(main())
