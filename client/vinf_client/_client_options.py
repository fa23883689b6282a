"""What both clients make of their arguments."""

import difflib
import math
import uuid

from vinf_client._errors import InvalidRequestError, Violation
from vinf_client._flows import OnWait, Submission
from vinf_client._format import NAMES
from vinf_client._job import JobArguments
from vinf_client._request import SpecArguments, SpecOptions
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


def spec_of(prompt: str, options: SpecOptions) -> SpecArguments:
    """Return what the caller asked for.

    Raises:
        InvalidRequestError: an option is none; all are named, with what may have been meant.
    """
    known = SpecOptions.__annotations__
    if violations := [Violation(name, _not_an_option(name)) for name in options if name not in known]:
        raise InvalidRequestError.of(violations)
    return SpecArguments(prompt=prompt, **options)


def _not_an_option(name: str) -> str:
    if name == "format":
        return f"belongs to whoever reads the frames; give it to frames, pull or generate; allowed: {', '.join(NAMES)}"
    if name in ("latency", "prefetch"):
        return "belongs to whoever reads the frames; give it to frames or generate"
    allowed = sorted(SpecOptions.__annotations__)
    close = difflib.get_close_matches(name, allowed, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"is not an option{meant} (allowed: {', '.join(allowed)})"


def submission_of(
    arguments: SpecArguments, job: JobArguments, *, on_wait: OnWait | None, wait_ready: float
) -> Submission:
    """Return a generation to be created; with a request id of its own where the caller gave none."""
    request_id = job.request_id or str(uuid.uuid4())
    return Submission(arguments, job, request_id=request_id, on_wait=on_wait, wait_ready=wait_ready)
