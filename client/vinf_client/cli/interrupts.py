"""Signals: the first Ctrl-C ends the work in good order, the second ends the process."""

import os
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Generic, TypeVar

from vinf_client.cli.exit_codes import EXIT_INTERRUPTED, EXIT_TERMINATED

_POLL = 0.1
"""Seconds; Python runs handlers in the main thread, but the system may interrupt any other one instead of it."""

Result = TypeVar("Result")


class TerminatedError(Exception):
    """SIGTERM ended the work."""


class Interruptible(Generic[Result]):
    """Work in a thread of its own, while the main thread waits for signals.

    A handler that raised where the work stands would do so inside gRPC as well, whose calls then neither go on nor end.
    Here a signal wakes the main thread only; it runs what the work named by `on_stop`, and these make it return.
    A second signal means that this takes too long: `last_act` runs and the process ends.

    Args:
        work: what is to be done; gets this object.
    """

    def __init__(self, work: "Callable[[Interruptible[Result]], Result]") -> None:
        self.last_act: Callable[[], None] | None = None
        self._work = work
        self._stops: list[Callable[[], object]] = []
        self._stopped = False
        self._lock = threading.Lock()
        self._signalled = False
        # Putting into this kind of queue is safe in a signal handler.
        self._events: queue.SimpleQueue[signal.Signals | None] = queue.SimpleQueue()
        self._result: Result
        self._error: BaseException | None = None

    def on_stop(self, stop: Callable[[], object]) -> None:
        """Have `stop` called, from the main thread, when a signal arrives; at once if one has arrived already."""
        with self._lock:
            if not self._stopped:
                self._stops.append(stop)
                return
        stop()

    def run(self) -> Result:
        """Do the work; return its result or raise its error.

        Outside the main thread, which alone may handle signals, the work runs where the caller stands.

        Raises:
            KeyboardInterrupt: SIGINT ended it.
            TerminatedError: SIGTERM ended it.
        """
        if threading.current_thread() is not threading.main_thread():
            return self._work(self)
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._handle) for number in signals}
        try:
            thread = threading.Thread(target=self._run_work, name="vinf-work", daemon=True)
            thread.start()
            received = self._wait()
            if received is not None:
                self._stop()
            while thread.is_alive():
                thread.join(_POLL)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._error is None:
            return self._result
        if received is not None:  # what the work met on its way out is of no interest
            raise KeyboardInterrupt if received == signal.SIGINT else TerminatedError
        raise self._error

    def _wait(self) -> signal.Signals | None:
        """Wait for a signal, or for None: the end of the work."""
        while True:
            with suppress(queue.Empty):
                return self._events.get(timeout=_POLL)

    def _run_work(self) -> None:
        try:
            self._result = self._work(self)
        except BaseException as error:
            self._error = error
        finally:
            self._events.put(None)

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
        for stop in reversed(self._stops):
            stop()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._signalled:
            try:
                if self.last_act is not None:
                    self.last_act()
            finally:
                os._exit(EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED)
        self._signalled = True
        self._events.put(signal.Signals(number))
