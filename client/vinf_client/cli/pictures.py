"""A display of progress with a picture above it: estimates while the video is denoised, then its newest frame."""

import io
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.text import Text

from vinf_client._errors import VinfError
from vinf_client._types import Preview, Progress
from vinf_client.cli.graphics import Cells, Graphics
from vinf_client.cli.terminal import room
from vinf_client.progress import Tracker, waiting_text

_MOST_ROWS = 16
_MOST_COLUMNS = 80
_LEAST_ROWS = 4  # a terminal with room for fewer shows no picture
_MOST_IN_STRIP = 6
_BAR_WIDTH = 30
_PICTURE_INTERVAL = 0.1  # seconds between pictures: more would only keep the terminal busy
_PAUSE_SHARE = 3  # of the time a picture took: whoever writes the video does not wait for the terminal
_TICK = 1.0  # seconds; the time that went by is shown


class PictureDisplay:
    """A picture, and one line with a bar below it. Any thread may call any method.

    Args:
        stream: a terminal.
        graphics: how to draw on it.
    """

    def __init__(self, stream: TextIO, graphics: Graphics) -> None:
        self._stream = stream
        self._graphics = graphics
        self._console = Console(file=stream)
        self._tracker = Tracker()
        self._lock = threading.Lock()
        self._line: tuple[str, float | None] = ("connecting", None)
        self._rows = 0  # above the line, for pictures
        self._cells: Cells | None = None  # of the picture that is shown
        self._began = time.monotonic()
        self._next_at = 0.0  # when the next frame may be drawn
        self._has_frames = False
        self._strip: dict[int, Pillow.Image] = {}
        self._shown: Pillow.Image | None = None
        self._closed = threading.Event()
        self._draw_line()
        self._ticker = threading.Thread(target=self._tick, name="vinf-ticker", daemon=True)
        self._ticker.start()

    def note(self, text: str) -> None:
        """Show that something other than the generation is being waited for."""
        self._show_line(text, None)

    def waiting(self, reason: VinfError) -> None:
        """Show why there is a pause before the next try."""
        self._show_line(waiting_text(reason), None)

    def update(self, progress: Progress) -> None:
        """Show how far the generation is."""
        with self._lock:
            self._line = self._tracker.describe(progress)
            self._draw_line()

    def show_previews(self, previews: Sequence[Preview]) -> None:
        """Show estimates side by side, in the order of their frames, until the first frame is there."""
        with self._lock:
            if self._has_frames or not previews:
                return
            for preview in previews:
                with Pillow.open(io.BytesIO(preview.jpeg)) as picture:
                    self._strip[preview.frame_index] = picture.convert("RGB")
            self._draw_picture(_strip_of([self._strip[index] for index in sorted(self._strip)]))

    def show_frame(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Show a frame, uint8 ``[H, W, 3]``; frames that come too fast for a terminal are left out."""
        with self._lock:
            if self._has_frames and time.monotonic() < self._next_at:
                return
            self._has_frames = True
            self._draw_picture(Pillow.fromarray(pixels))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let the body print lines to the same terminal: they stand above the picture, which is drawn again below."""
        with self._lock:
            if self._closed.is_set():
                yield
                return
            self._erase()
            self._rows, self._cells = 0, None
            yield
            if self._shown is not None:
                self._draw_picture(self._shown)
            self._draw_line()

    def close(self) -> None:
        """Leave the terminal as it was found. A no-op the second time."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            self._erase()

    def _erase(self) -> None:
        up = f"\x1b[{self._rows}A" if self._rows else ""
        self._write(f"{self._graphics.clear()}\r{up}\x1b[J")

    def _show_line(self, text: str, share: float | None) -> None:
        with self._lock:
            self._line = text, share
            self._draw_line()

    def _tick(self) -> None:
        while not self._closed.wait(_TICK):
            with self._lock:
                self._draw_line()

    def _draw_line(self) -> None:
        text, share = self._line
        passed = round(time.monotonic() - self._began)
        columns = room(self._stream).columns
        width = min(_BAR_WIDTH, columns // 4)
        bar = ProgressBar(total=None if share is None else 1.0, completed=share or 0.0, width=width)
        words = Text(f" {text}  {passed // 60}:{passed % 60:02d}")
        words.truncate(max(1, columns - width - 1), overflow="ellipsis")
        with self._console.capture() as capture:
            self._console.print(bar, end="")
            self._console.print(words, end="", soft_wrap=True)
        self._write(f"\r{capture.get()}\x1b[K")

    def _draw_picture(self, picture: Pillow.Image) -> None:
        screen = room(self._stream)
        most = min(_MOST_ROWS, screen.rows - 2)
        if self._closed.is_set() or most < _LEAST_ROWS:
            return
        began = time.monotonic()
        cells = replace(screen, columns=min(_MOST_COLUMNS, screen.columns), rows=most).fitting(picture)
        prepare = ""
        if cells != self._cells:
            # The rows exist before the cursor is saved: nothing scrolls while it is away.
            prepare = "\r\x1b[K" + "\n" * max(0, cells.rows - self._rows)
            self._rows = max(self._rows, cells.rows)
            prepare += f"\x1b[{self._rows}A\x1b[J\x1b[{self._rows}B"
            self._cells = cells
        self._shown = picture
        drawn = self._graphics.draw(picture, cells)
        self._write(f"{prepare}\x1b7\x1b[{self._rows}A\r{drawn}\x1b8")
        self._draw_line()
        now = time.monotonic()
        self._next_at = now + max(_PICTURE_INTERVAL, _PAUSE_SHARE * (now - began))

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _strip_of(pictures: Sequence[Pillow.Image]) -> Pillow.Image:
    """Put some of the pictures, evenly picked, side by side."""
    count = min(len(pictures), _MOST_IN_STRIP)
    picked = [pictures[index * len(pictures) // count] for index in range(count)]
    height = max(picture.height for picture in picked)
    strip = Pillow.new("RGB", (sum(picture.width for picture in picked), height))
    left = 0
    for picture in picked:
        strip.paste(picture, (left, 0))
        left += picture.width
    return strip
