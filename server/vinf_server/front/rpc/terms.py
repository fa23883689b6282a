"""What a client asks for beside the specification, against its documented ranges."""

from __future__ import annotations

import math
import re
import time

from vinf.v1 import generation_pb2
from vinf.v1.video_generation_service_pb2 import CreateGenerationRequest
from vinf_server.front.errors import Violation
from vinf_server.front.generations.generation import DEFAULT_PRIORITY, Terms
from vinf_server.front.rpc.durations import seconds
from vinf_server.front.rpc.spec import range_text

MAX_PRIORITY = 9
DEFAULT_LEASE_S = 60.0
MIN_LEASE_S, MAX_LEASE_S = 5.0, 3600.0
MAX_DEADLINE_S = 30 * 24 * 3600.0
MIN_RETENTION, MAX_RETENTION = 64, 2**31 - 1
MAX_LABELS = 16
MAX_LABEL_CHARS = 255
MAX_PREVIEW_INTERVAL = 1000
_LABEL_KEY = re.compile(r"[a-z0-9_-]{1,63}")
_SHOWN_CHARS = 40


def check_terms(
    request: CreateGenerationRequest, violations: list[Violation], *, owner: str, is_retry: bool = False
) -> Terms:
    """Return the terms with every default filled in; worthless when violations were added.

    Args:
        request: as it came.
        violations: where what is wrong is added.
        owner: who asks.
        is_retry: it was admitted before, and a deadline that has passed meanwhile is none of its faults.
    """
    return Terms(
        owner=owner,
        priority=_priority(request, violations),
        lease_s=_lease_s(request, violations),
        deadline_ns=_deadline_ns(request, violations, may_have_passed=is_retry),
        retention_frame_count=_retention(request, violations),
        drops_oldest=_drops_oldest(request, violations),
        labels=_labels(request, violations),
        preview_interval_steps=_preview_interval(request, violations),
    )


def _priority(request: CreateGenerationRequest, violations: list[Violation]) -> int:
    if not request.HasField("priority"):
        return DEFAULT_PRIORITY
    value = request.priority.value
    if not 0 <= value <= MAX_PRIORITY:
        text = range_text(value, 0, MAX_PRIORITY)
        violations.append(Violation("priority", f"{text} (unset = {DEFAULT_PRIORITY})"))
    return value


def _lease_s(request: CreateGenerationRequest, violations: list[Violation]) -> float | None:
    value = seconds(request.lease_duration)
    if value != 0 and not MIN_LEASE_S <= value <= MAX_LEASE_S:  # true for NaN, too
        text = range_text(value, MIN_LEASE_S, MAX_LEASE_S, unit="seconds", zero=f"{DEFAULT_LEASE_S:g}")
        violations.append(Violation("lease_duration", text))
    return None if request.detached else value or DEFAULT_LEASE_S


def _deadline_ns(request: CreateGenerationRequest, violations: list[Violation], *, may_have_passed: bool) -> int:
    if not request.HasField("deadline"):
        return 0
    stamp = request.deadline
    ahead = stamp.seconds + stamp.nanos / 1e9 - time.time() if 0 <= stamp.nanos <= 999_999_999 else math.nan
    earliest = -math.inf if may_have_passed else 0
    if not earliest < ahead <= MAX_DEADLINE_S:
        problem = "must be in the future, at most 30 days ahead of the server's clock"
        came = "a timestamp whose parts contradict each other" if math.isnan(ahead) else f"{ahead:+.0f} s"
        violations.append(Violation("deadline", f"{problem}, got {came}"))
    return stamp.seconds * 10**9 + stamp.nanos


def _retention(request: CreateGenerationRequest, violations: list[Violation]) -> int:
    value = request.retention_frame_count
    if value != 0 and not MIN_RETENTION <= value <= MAX_RETENTION:
        text = range_text(value, MIN_RETENTION, MAX_RETENTION, unit="frames", zero="all frames are kept")
        violations.append(Violation("retention_frame_count", text))
    return value


def _drops_oldest(request: CreateGenerationRequest, violations: list[Violation]) -> bool:
    policy, known = request.overflow_policy, generation_pb2.OverflowPolicy.values()
    drops_oldest = policy == generation_pb2.OVERFLOW_POLICY_DROP_OLDEST
    if policy not in known:
        problem = f"must be an OverflowPolicy in [0, {max(known)}], got {policy}"
        violations.append(Violation("overflow_policy", problem))
    elif drops_oldest and not request.retention_frame_count:
        problem = "DROP_OLDEST needs a retention_frame_count: how many frames to keep"
        violations.append(Violation("overflow_policy", problem))
    return drops_oldest


def _labels(request: CreateGenerationRequest, violations: list[Violation]) -> tuple[tuple[str, str], ...]:
    labels = sorted(request.labels.items())
    if len(labels) > MAX_LABELS:
        violations.append(Violation("labels", f"must have at most {MAX_LABELS} entries, got {len(labels)}"))
    for key, value in labels[:MAX_LABELS]:
        if not _LABEL_KEY.fullmatch(key):
            problem = f"a key must be 1 to 63 characters from [a-z0-9_-], got {key[:_SHOWN_CHARS]!r}"
            violations.append(Violation("labels", problem))
        if len(value) > MAX_LABEL_CHARS:
            problem = f"must have at most {MAX_LABEL_CHARS} code points, got {len(value)}"
            violations.append(Violation(f"labels[{key[:_SHOWN_CHARS]!r}]", problem))
    return tuple(labels)


def _preview_interval(request: CreateGenerationRequest, violations: list[Violation]) -> int:
    value = request.preview_interval_steps
    if not 0 <= value <= MAX_PREVIEW_INTERVAL:
        text = range_text(value, 0, MAX_PREVIEW_INTERVAL, unit="steps", zero="no previews")
        violations.append(Violation("preview_interval_steps", text))
    return value
