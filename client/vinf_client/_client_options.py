"""What both clients make of their arguments."""

import math
import uuid

from vinf_client._errors import InvalidRequestError, Violation
from vinf_client._flows import OnWait, Submission
from vinf_client._job import JobArguments
from vinf_client._request import SpecArguments
from vinf_client._retry import Backoff, Persistence

RESUME_ATTEMPTS = 10
STALL_TIMEOUT = 60.0
"""Seconds; servers send at least a keepalive every 10 s."""

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


def submission_of(
    arguments: SpecArguments, job: JobArguments, *, on_wait: OnWait | None, wait_ready: float
) -> Submission:
    """Return a generation to be created; with a request id of its own where the caller gave none."""
    request_id = job.request_id or str(uuid.uuid4())
    return Submission(arguments, job, request_id=request_id, on_wait=on_wait, wait_ready=wait_ready)
