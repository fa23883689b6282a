"""What one client may ask for, so that it leaves room for the others."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from vinf_server.front.errors import ClientLimitError

_KNOWN_CLIENTS = 10_000
"""Clients whose calls are counted; the one that has been silent longest is forgotten, and starts with a full bucket."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    time: float


class CreateRate:
    """A token bucket a client: it may make as many calls at once as in a minute, then one whenever a token has come.

    Args:
        per_minute: tokens that come in a minute, and that a bucket holds; 0: no limit.
        clock: seconds, never going back.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, client: str) -> None:
        """Count a call, or raise `ClientLimitError` with the time until the next one may be made."""
        if not self.per_minute:
            return
        now = self._clock()
        bucket = self._buckets.setdefault(client, _Bucket(self.per_minute, now))
        self._buckets.move_to_end(client)
        if len(self._buckets) > _KNOWN_CLIENTS:
            self._buckets.popitem(last=False)
        per_second = self.per_minute / 60
        bucket.tokens = min(self.per_minute, bucket.tokens + (now - bucket.time) * per_second)
        bucket.time = now
        if bucket.tokens < 1:
            raise ClientLimitError(
                f"a client may call CreateGeneration {self.per_minute} times a minute, validate_only included; "
                "try again later",
                retry_s=(1 - bucket.tokens) / per_second,
                limit="max_creates_per_minute",
                maxCreatesPerMinute=str(self.per_minute),
            )
        bucket.tokens -= 1


class ClientLimits:
    """What one client may ask for.

    Args:
        max_waiting: generations it may have in the queue; 0: no limit.
        creates_per_minute: calls of CreateGeneration; 0: no limit.
    """

    def __init__(self, *, max_waiting: int = 0, creates_per_minute: int = 0) -> None:
        self.max_waiting = max_waiting
        self.creates = CreateRate(creates_per_minute)

    def check_waiting(self, waiting: int, *, retry_s: float) -> None:
        """Refuse a client that has as many generations in the queue as it may.

        Args:
            waiting: how many it has there.
            retry_s: seconds until one of them probably leaves it.

        Raises:
            ClientLimitError: there is no room for another one of this client's.
        """
        if self.max_waiting and waiting >= self.max_waiting:
            raise ClientLimitError(
                f"{waiting} generations of this client wait already, {self.max_waiting} may; try again later",
                retry_s=retry_s,
                limit="max_waiting_per_client",
                waitingGenerationCount=str(waiting),
                maxWaitingPerClient=str(self.max_waiting),
            )
