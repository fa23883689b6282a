"""How a generation's progress is shown: a live line on a terminal, occasional lines elsewhere, or not at all."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from vinf_client._errors import TransportError, VinfError
from vinf_client._types import GenerationStage, GenerationState, Progress

_PLAIN_INTERVAL = 5.0  # seconds between plain lines of the same stage


class Tracker:
    """Turns snapshots into words and a fraction; measures speed itself, so that time left follows from what was seen.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = GenerationStage.UNKNOWN
        self._began = 0.0
        self._began_at = 0

    def describe(self, progress: Progress) -> tuple[str, float]:
        """Return the line to show, and how much of its stage is done, from 0 to 1."""
        if progress.state is GenerationState.PENDING:
            ahead = progress.queue_position
            return (f"queued, {ahead} ahead" if ahead else "queued, next in line"), 0.0
        if progress.state is GenerationState.CANCELLING:
            return "cancelling", 0.0
        if progress.state is GenerationState.SUSPENDED:
            return "suspended; it goes on by itself", 0.0
        if progress.stage is GenerationStage.DECODE or progress.completed_frame_count or progress.state.terminal:
            return self._decoding(progress)
        if progress.stage is GenerationStage.DENOISE:
            return self._denoising(progress)
        return "reading the prompt", 0.0

    def _denoising(self, progress: Progress) -> tuple[str, float]:
        done, total = progress.completed_step_count, progress.step_count
        _, left = self._speed(GenerationStage.DENOISE, done, total)
        return f"denoising, step {done} of {total}{left}", _share(done, total)

    def _decoding(self, progress: Progress) -> tuple[str, float]:
        done, total = progress.completed_frame_count, progress.frame_count
        rate, left = self._speed(GenerationStage.DECODE, done, total)
        speed = f", {rate:.1f} frames/s" if rate else ""
        return f"decoding, frame {done} of {total}{speed}{left}", _share(done, total)

    def _speed(self, stage: GenerationStage, done: int, total: int) -> tuple[float, str]:
        now = self._clock()
        if stage is not self._stage or done < self._began_at:
            self._stage, self._began, self._began_at = stage, now, done
        passed, made = now - self._began, done - self._began_at
        if made < 1 or passed <= 0:
            return 0.0, ""
        rate = made / passed
        return rate, f", {_duration((total - done) / rate)} left" if done < total else ""


def brief(progress: Progress) -> str:
    """Return how far it is in a dozen characters, for where the state stands beside it."""
    match progress.state:
        case GenerationState.PENDING:
            return f"{progress.queue_position} ahead" if progress.queue_position else "next in line"
        case GenerationState.CANCELLING | GenerationState.SUSPENDED:
            return ""
    if progress.stage is GenerationStage.DECODE or progress.completed_frame_count or progress.state.terminal:
        return f"frame {progress.completed_frame_count}/{progress.frame_count}"
    if progress.stage is GenerationStage.DENOISE:
        return f"step {progress.completed_step_count}/{progress.step_count}"
    return "prompt"


class Display(Protocol):
    """Shows what happens. Any thread may call any method."""

    def note(self, text: str) -> None:
        """Show that something other than the generation is being waited for."""

    def waiting(self, reason: VinfError) -> None:
        """Show why there is a pause before the next try."""

    def update(self, progress: Progress) -> None:
        """Show how far the generation is."""

    def close(self) -> None:
        """Leave the terminal as it was found. A no-op the second time."""


class SilentDisplay:
    """Shows nothing."""

    def note(self, text: str) -> None: ...

    def waiting(self, reason: VinfError) -> None: ...

    def update(self, progress: Progress) -> None: ...

    def close(self) -> None: ...


class PlainDisplay:
    """Lines for logs and pipes: one when the stage changes, then one every few seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._tracker = Tracker(clock)
        self._lock = threading.Lock()
        self._shown = ""
        self._topic = ""
        self._shown_at = 0.0

    def note(self, text: str) -> None:
        self._show(text, topic=text)

    def waiting(self, reason: VinfError) -> None:
        self._show(waiting_text(reason), topic=reason.reason)

    def update(self, progress: Progress) -> None:
        line, _ = self._tracker.describe(progress)
        ended = progress.state.terminal
        self._show(line, topic=line.split(",")[0] + (" ended" if ended else ""))

    def close(self) -> None: ...

    def _show(self, line: str, *, topic: str) -> None:
        with self._lock:
            now = self._clock()
            if line == self._shown or (topic == self._topic and now - self._shown_at < _PLAIN_INTERVAL):
                return
            self._shown, self._topic, self._shown_at = line, topic, now
            print(f"vinf: {line}", file=self._stream, flush=True)


class RichDisplay:
    """One live line with a bar."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._tracker = Tracker()
        self._lock = threading.Lock()
        self._bar: Any = Bar(
            SpinnerColumn(),
            BarColumn(bar_width=30),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=Console(file=stream),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file must not end on the terminal
        )
        self._task = self._bar.add_task("connecting", total=None)
        self._bar.start()

    def note(self, text: str) -> None:
        self._bar.update(self._task, description=text, total=None)

    def waiting(self, reason: VinfError) -> None:
        self._bar.update(self._task, description=waiting_text(reason), total=None)

    def update(self, progress: Progress) -> None:
        with self._lock:
            line, share = self._tracker.describe(progress)
            self._bar.update(self._task, description=line, total=1.0, completed=share)

    def close(self) -> None:
        self._bar.stop()


def choose_display(*, quiet: bool, stream: TextIO | None = None) -> Display:
    """Pick the display that fits where standard error goes."""
    stream = stream or sys.stderr
    if quiet:
        return SilentDisplay()
    if stream.isatty():
        try:
            return RichDisplay(stream)
        except ImportError:
            pass  # rich is a comfort, not a need
    return PlainDisplay(stream)


def waiting_text(reason: VinfError) -> str:
    match reason.reason:
        case "QUEUE_FULL":
            return "waiting for room in the server's queue"
        case "WORKERS_NOT_READY":
            return "waiting for the ranks"
        case "CLIENT_LIMIT":
            return f"waiting, a limit is reached: {reason}"
        case "" if isinstance(reason, TransportError):
            return "the connection broke, trying again"
        case _:
            return f"waiting: {reason}"


def _share(done: int, total: int) -> float:
    return min(1.0, done / total) if total > 0 else 0.0


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
