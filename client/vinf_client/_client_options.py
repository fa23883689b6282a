"""What both clients make of their arguments."""

import math
import uuid

from vinf_client._errors import InvalidRequestError, Violation
from vinf_client._flows import OnWait, Submission
from vinf_client._format import NAMES
from vinf_client._job import JobArguments
from vinf_client._request import SpecArguments, SpecOptions
from vinf_client._retry import Backoff, Persistence
from vinf_client._wanted import LATENCIES

RESUME_ATTEMPTS = 10
STALL_TIMEOUT = 60.0
"""Seconds; servers send at least a keepalive every 10 s."""

_OF_READING = {
    "format": f"to frames, pull or generate; allowed: {', '.join(NAMES)}",
    "latency": f"to frames, pull or generate; allowed: {', '.join(LATENCIES)}",
    "prefetch": "to frames or generate; allowed: a whole number, at least 0",
}
"""What `generate` takes and a generation alone does not."""

_LEAST_STALL = 2.0  # seconds; a server sends signs of life at most once a second


def persistence_of(stall_timeout: float | None, resume_attempts: int) -> Persistence:
    """Return how a client holds on to its streams.

    Raises:
        InvalidRequestError: such a timeout cannot work.
    """
    if stall_timeout is not None and not (math.isfinite(stall_timeout) and stall_timeout >= _LEAST_STALL):
        problem = f"{stall_timeout:g} s is not allowed; allowed: at least {_LEAST_STALL:g} s, or None for never"
        raise InvalidRequestError.of([Violation("stall_timeout", problem)])
    return Persistence(Backoff(attempts=resume_attempts), stall_timeout)


def spec_of(prompt: str, options: SpecOptions) -> SpecArguments:
    """Return what the caller asked for.

    Raises:
        InvalidRequestError: an option is about reading the frames, which `frames` and others take.
        TypeError: an option is none at all.
    """
    if misplaced := [name for name in _OF_READING if name in options]:
        why = "is chosen by who reads the frames: give it"
        violations = [Violation(name, f"{why} {_OF_READING[name]}") for name in misplaced]
        raise InvalidRequestError.of(violations)
    return SpecArguments(prompt=prompt, **options)


def submission_of(
    arguments: SpecArguments, job: JobArguments, *, on_wait: OnWait | None, wait_ready: float
) -> Submission:
    """Return a generation to be created; with a request id of its own where the caller gave none."""
    request_id = job.request_id or str(uuid.uuid4())
    return Submission(arguments, job, request_id=request_id, on_wait=on_wait, wait_ready=wait_ready)
