"""How long to wait before trying again, and how often."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from vinf_client._errors import VinfError


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing waits with jitter, so that readers of a restarted server do not return in step."""

    initial: float = 0.1
    factor: float = 2.0
    maximum: float = 5.0
    attempts: int = 10

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait before try number `attempt`, counted from 1."""
        full = min(self.maximum, self.initial * self.factor ** (attempt - 1))
        return full * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Persistence:
    """How a client holds on to what it reads."""

    backoff: Backoff = Backoff()
    stall_timeout: float | None = None  # seconds


class Attempts:
    """Counts failures in a row and says how long to wait after each; only what the server calls UNAVAILABLE is tried
    again.

    Args:
        backoff: the waits.
        on_failure: called with each failure that is tried again.
    """

    def __init__(self, backoff: Backoff, *, on_failure: Callable[[VinfError], None] | None = None) -> None:
        self._backoff = backoff
        self._on_failure = on_failure
        self._failures = 0

    def progressed(self) -> None:
        """Forget earlier failures: something arrived."""
        self._failures = 0

    def failed(self, error: VinfError) -> float:
        """Return the seconds to wait before the next try, or raise `error` when there is none left.

        Must be called while `error` is handled, so that its traceback stays whole.
        """
        self._failures += 1
        if error.code != "UNAVAILABLE" or self._failures > self._backoff.attempts:
            raise error
        if self._on_failure is not None:
            self._on_failure(error)
        return error.retry_after or self._backoff.delay(self._failures)
