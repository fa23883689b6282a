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


class Attempts:
    """Counts failures in a row and waits after each; only what the server calls UNAVAILABLE is tried again."""

    def __init__(
        self,
        backoff: Backoff,
        *,
        sleep: Callable[[float], object],
        on_failure: Callable[[VinfError], None] | None = None,
    ) -> None:
        self._backoff = backoff
        self._sleep = sleep
        self._on_failure = on_failure
        self._failures = 0

    def progressed(self) -> None:
        """Forget earlier failures: something arrived."""
        self._failures = 0

    def failed(self, error: VinfError) -> None:
        """Wait before the next try, or raise `error` when there is none left.

        Must be called while `error` is handled, so that its traceback stays whole.
        """
        self._failures += 1
        if error.code != "UNAVAILABLE" or self._failures > self._backoff.attempts:
            raise error
        if self._on_failure is not None:
            self._on_failure(error)
        self._sleep(error.retry_after or self._backoff.delay(self._failures))
