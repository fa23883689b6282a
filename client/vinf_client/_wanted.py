"""Which frames a caller wants, and in which way."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import SupportsIndex

from vinf.v1 import frame_pb2
from vinf_client._errors import InvalidRequestError, VinfError, Violation
from vinf_client._format import FormatLike, write_format
from vinf_client._retry import Persistence

LATENCIES = ("all", "low")
"""Every frame, or only the newest of each moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which frames of which generation, in which form, and with how much patience."""

    generation_id: str
    start: int = 0
    stop: int | None = None
    output: FormatLike = None
    latest: bool = False
    request_id: str = ""  # of the call that created the generation, for errors
    persistence: Persistence = field(default_factory=Persistence)
    on_wait: Callable[[VinfError], None] | None = None

    @property
    def stall_timeout(self) -> float | None:
        """Seconds of silence that mean a broken connection."""
        return self.persistence.stall_timeout

    def check(self, latency: str, **counts: int) -> "Wanted":
        """Return it with `latest` as the caller's word means it.

        Args:
            latency: "all" or "low".
            counts: numbers of frames, by argument.

        Raises:
            InvalidRequestError: naming every argument that cannot be.
        """
        violations = [
            Violation(name, f"{count!r} is not allowed; allowed: a whole number, at least 0")
            for name, count in {
                "start": self.start,
                **counts,
                **({} if self.stop is None else {"stop": self.stop}),
            }.items()
            if isinstance(count, bool) or not isinstance(count, SupportsIndex) or operator.index(count) < 0
        ]
        if latency not in LATENCIES:
            violations.append(Violation("latency", f"{latency!r} is not allowed; allowed: {', '.join(LATENCIES)}"))
        if violations:
            raise InvalidRequestError.of(violations)
        return replace(self, latest=latency == "low")


def check_reading(output: FormatLike, latency: str, prefetch: int) -> None:
    """Return when frames can be asked for in this way.

    Raises:
        InvalidRequestError: they cannot.
    """
    Wanted(generation_id="").check(latency, prefetch=prefetch)
    write_format(frame_pb2.OutputFormat(), output)
