"""How a batch is shown: live bars on a terminal, one line a video elsewhere, or not at all."""

import sys
import threading
from typing import Any, TextIO

from vinf_client._errors import VinfError
from vinf_client._types import Progress
from vinf_client.cli.batch_items import Item
from vinf_client.cli.batch_work import BatchDisplay
from vinf_client.progress import Tracker, waiting_text


class SilentBatchDisplay:
    """Shows nothing."""

    def started(self, item: Item) -> None: ...

    def update(self, item: Item, progress: Progress) -> None: ...

    def waiting(self, item: Item, reason: VinfError) -> None: ...

    def saved(self, item: Item, frames: int, seconds: float) -> None: ...

    def failed(self, item: Item, error: VinfError) -> None: ...

    def close(self) -> None: ...


class PlainBatchDisplay:
    """Lines for logs and pipes: one a video, and one when what is waited for changes."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self._total = total
        self._ended = 0
        self._waits_for = ""
        self._lock = threading.Lock()

    def started(self, item: Item) -> None: ...

    def update(self, item: Item, progress: Progress) -> None: ...

    def waiting(self, item: Item, reason: VinfError) -> None:
        with self._lock:
            text = waiting_text(reason)
            if text != self._waits_for:
                self._waits_for = text
                self._print(text)

    def saved(self, item: Item, frames: int, seconds: float) -> None:
        self._end(f"{item.name}: {frames} frames in {seconds:.1f} s")

    def failed(self, item: Item, error: VinfError) -> None:
        self._end(f"{item.name}: failed: {error}")

    def close(self) -> None: ...

    def _end(self, text: str) -> None:
        with self._lock:
            self._ended += 1
            self._waits_for = ""
            self._print(f"{self._ended} of {self._total}: {text}")

    def _print(self, text: str) -> None:
        print(f"vinf: {text}", file=self._stream, flush=True)


class RichBatchDisplay:
    """A bar for the whole, and one for each video under way."""

    def __init__(self, stream: TextIO, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file must not end on the terminal
        )
        self._total = total
        self._ended = 0
        self._failures = 0
        self._tasks: dict[str, Any] = {}
        self._trackers: dict[str, Tracker] = {}
        self._lock = threading.Lock()
        self._whole = self._bars.add_task("videos", total=total, words=f"0 of {total}")
        self._bars.start()

    def started(self, item: Item) -> None:
        with self._lock:
            self._trackers[item.name] = Tracker()
            self._tasks[item.name] = self._bars.add_task(item.name, total=None, words="")

    def update(self, item: Item, progress: Progress) -> None:
        with self._lock:
            if item.name in self._tasks:
                words, share = self._trackers[item.name].describe(progress)
                self._bars.update(self._tasks[item.name], total=1.0, completed=share, words=words)

    def waiting(self, item: Item, reason: VinfError) -> None:
        with self._lock:
            if item.name in self._tasks:
                self._bars.update(self._tasks[item.name], total=None, words=waiting_text(reason))

    def saved(self, item: Item, frames: int, seconds: float) -> None:
        self._end(item)

    def failed(self, item: Item, error: VinfError) -> None:
        with self._lock:
            self._failures += 1
        self._end(item)

    def close(self) -> None:
        self._bars.stop()

    def _end(self, item: Item) -> None:
        with self._lock:
            self._bars.remove_task(self._tasks.pop(item.name))
            self._trackers.pop(item.name)
            self._ended += 1
            failed = f", {self._failures} failed" if self._failures else ""
            self._bars.update(self._whole, advance=1, words=f"{self._ended} of {self._total}{failed}")


def choose_batch_display(stream: TextIO, total: int, *, quiet: bool) -> BatchDisplay:
    """Pick the display that fits where standard error goes."""
    if quiet:
        return SilentBatchDisplay()
    if stream.isatty():
        return RichBatchDisplay(stream, total)
    return PlainBatchDisplay(stream, total)
