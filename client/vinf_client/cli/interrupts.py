"""Signals: the first Ctrl-C ends the work in good order, the second ends the process."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from vinf_client.cli.common import EXIT_INTERRUPTED

EXIT_TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM arrived; raised where the main thread stood, as KeyboardInterrupt is for SIGINT."""


class Interrupts:
    """Handles SIGINT and SIGTERM while it is entered.

    The first signal raises where the main thread stands, so that every `with` statement cleans up; a second one means
    that this takes too long: `last_act` runs and the process ends.
    """

    def __init__(self) -> None:
        self.last_act: Callable[[], None] | None = None
        self._signalled = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may handle signals: leave them to it
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._signalled:
            try:
                if self.last_act is not None:
                    self.last_act()
            finally:
                os._exit(EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED)
        self._signalled = True
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated
