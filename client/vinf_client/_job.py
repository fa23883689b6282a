"""How a generation is run, apart from what it shows: its place in the queue, its deadline, who waits for it."""

import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.protobuf import wrappers_pb2

from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client._errors import Violation
from vinf_client._request import encodable

_INT32 = 2**31 - 1
_LONGEST = 1e9  # seconds; about 30 years, far beyond what a server allows


@dataclass(frozen=True, slots=True, kw_only=True)
class JobArguments:
    """What the caller asked for, unchecked; None is the server's default. `Client.submit` describes each."""

    request_id: str | None = None
    detached: bool = False
    priority: int | None = None
    deadline: float | timedelta | datetime | None = None
    lease: float | timedelta | None = None
    labels: Mapping[str, str] | None = None
    preview_every: int | None = None


def check_job(arguments: JobArguments) -> list[Violation]:
    """Find every violation that can be told without the server: what the wire cannot carry."""
    return [
        *_check_request_id(arguments.request_id),
        *_check_detached(arguments.detached),
        *_check_int32("priority", arguments.priority, "[0, 9]"),
        *_check_int32("preview_interval_steps", arguments.preview_every, "[0, 1000]"),
        *_check_deadline(arguments.deadline),
        *_check_lease(arguments),
        *_check_labels(arguments.labels),
    ]


def write_job(
    request: service_pb.CreateGenerationRequest,
    arguments: JobArguments,
    *,
    now: Callable[[], datetime],
    without: Collection[str] = (),
) -> None:
    """Write what was given; the rest stays unset.

    Args:
        request: where it goes.
        arguments: the caller's, checked.
        now: asks for the server's time; called only for a deadline that counts from now.
        without: fields to leave out because `check_job` refused them.
    """
    if "detached" not in without:
        request.detached = arguments.detached
    if arguments.priority is not None and "priority" not in without:
        request.priority.CopyFrom(wrappers_pb2.Int32Value(value=operator.index(arguments.priority)))
    if arguments.deadline is not None and "deadline" not in without:
        request.deadline.FromDatetime(_moment(arguments.deadline, now).astimezone(UTC))
    if arguments.lease is not None and "lease_duration" not in without:
        request.lease_duration.FromTimedelta(timedelta(seconds=_seconds(arguments.lease)))
    if arguments.labels is not None and "labels" not in without:
        request.labels.update(arguments.labels)
    if arguments.preview_every is not None and "preview_interval_steps" not in without:
        request.preview_interval_steps = operator.index(arguments.preview_every)


def _moment(deadline: float | timedelta | datetime, now: Callable[[], datetime]) -> datetime:
    return deadline if isinstance(deadline, datetime) else now() + timedelta(seconds=_seconds(deadline))


def _seconds(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _check_request_id(value: str | None) -> list[Violation]:
    if value is None or (isinstance(value, str) and value.isascii()):
        return []
    return [Violation("request_id", f"must be a UUID, got {value!r}")]


def _check_detached(value: bool) -> list[Violation]:
    return [] if isinstance(value, bool) else [Violation("detached", f"must be True or False, got {value!r}")]


def _check_int32(field: str, value: int | None, allowed: str) -> list[Violation]:
    if value is None:
        return []
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        return [Violation(field, f"must be a whole number, got {value!r}")]
    if abs(number) > _INT32:
        return [Violation(field, f"{number} is not allowed; allowed: {allowed}")]
    return []


def _check_deadline(value: float | timedelta | datetime | None) -> list[Violation]:
    if isinstance(value, datetime):
        return [] if value.tzinfo is not None else [Violation("deadline", "must have a time zone")]
    return _check_span("deadline", value)


def _check_lease(arguments: JobArguments) -> list[Violation]:
    if arguments.lease is not None and arguments.detached is True:
        return [Violation("lease_duration", "cannot be combined with detached, which means no lease")]
    return _check_span("lease_duration", arguments.lease)


def _check_span(field: str, value: float | timedelta | None) -> list[Violation]:
    if value is None:
        return []
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        return [Violation(field, f"must be a number of seconds or a timedelta, got {value!r}")]
    seconds = _seconds(value)
    if math.isfinite(seconds) and 0 < seconds <= _LONGEST:
        return []
    return [Violation(field, f"{seconds:g} s is not allowed; allowed: more than 0 s")]


def _check_labels(value: Mapping[str, str] | None) -> list[Violation]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        return [Violation("labels", f"must be a mapping of texts, got {value!r}")]
    for key, entry in value.items():
        for text in (key, entry):
            if not isinstance(text, str) or not encodable(text):
                return [Violation("labels", f"must have texts as keys and values, got {text!r}")]
    return []
