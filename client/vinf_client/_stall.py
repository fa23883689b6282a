"""Silence on streams is noticed here: gRPC's own pings say that a machine lives, not that a server does its work."""

import threading
import time
import weakref
from collections.abc import Callable


class Silence:
    """How long one reader has been waiting; `broken` once that was too long."""

    def __init__(self, timeout: float, end: Callable[[], object]) -> None:
        self.timeout = timeout
        self.broken = False
        self._end = end
        self._since: float | None = None

    def begin(self) -> None:
        """The reader waits."""
        self._since = time.monotonic()

    def over(self) -> None:
        """Something came, or the reader does something else."""
        self._since = None

    def left(self) -> float:
        """Return the seconds until it is too long."""
        since = self._since
        return self.timeout if since is None else since + self.timeout - time.monotonic()

    def break_off(self) -> None:
        """End what the reader waits for."""
        self.broken = True
        self._end()


class StallWatch:
    """One thread that ends the streams on which nothing came for too long. Thread-safe.

    It looks again when the first stream could be due, so it costs nothing a frame, and ends when there are no streams.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: weakref.WeakSet[Silence] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._changed = threading.Event()

    def add(self, silence: Silence) -> None:
        """Watch a stream until `remove`."""
        with self._lock:
            self._watched.add(silence)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vinf-stall-watch", daemon=True)
                self._thread.start()
        self._changed.set()

    def remove(self, silence: Silence) -> None:
        """Watch it no longer."""
        with self._lock:
            self._watched.discard(silence)
            is_last = not self._watched
        if is_last:
            self._changed.set()

    def _run(self) -> None:
        while True:
            self._changed.clear()
            with self._lock:
                watched = list(self._watched)
                if not watched:
                    self._thread = None
                    return
            _break_off_silent(watched)
            wait = min((silence.left() for silence in watched if not silence.broken), default=60.0)
            del watched  # or it would keep abandoned streams alive
            self._changed.wait(max(0.0, wait))


def _break_off_silent(watched: list[Silence]) -> None:
    for silence in watched:
        if silence.left() <= 0 and not silence.broken:
            silence.break_off()
