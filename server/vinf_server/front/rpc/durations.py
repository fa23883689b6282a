"""Durations of the wire as numbers."""

from __future__ import annotations

import math

from google.protobuf import duration_pb2


def seconds(duration: duration_pb2.Duration) -> float:
    """Seconds of a duration; NaN, which is in no range, when its parts contradict each other."""
    whole, nanos = duration.seconds, duration.nanos
    if abs(nanos) > 999_999_999 or whole * nanos < 0:
        return math.nan
    return whole + nanos / 1e9
