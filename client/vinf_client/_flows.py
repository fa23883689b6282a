"""What the clients do, call by call, without doing it.

A flow is a generator: it yields what it needs done (reach the server, make a call, pause) and is sent the result, or
thrown the error. The synchronous transport does these things by blocking, the asynchronous one by awaiting, so both
clients check, retry and wait in the same way because it is written once.
"""

import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import Message

from vinf.v1 import generation_pb2 as pb
from vinf.v1 import server_info_service_pb2 as info_pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client import _convert
from vinf_client._errors import (
    ClientLimitError,
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    RpcTimeoutError,
    ServerDrainingError,
    ServerNotReadyError,
    TransportError,
    VinfError,
    Violation,
)
from vinf_client._job import JobArguments, check_job, write_job
from vinf_client._request import SpecArguments, build, check
from vinf_client._retry import Attempts, Backoff
from vinf_client._trace import Trace, read_trace
from vinf_client._translate import failure_error
from vinf_client._types import Generation, GenerationState, Model, ServerInfo

_PAGE_SIZE = 500
_WAIT = Backoff(initial=0.25, factor=1.5, maximum=2.0)
_UNARY = Backoff(attempts=5)
_POLL = Backoff(initial=0.05, factor=1.5, maximum=1.0)

OnWait: TypeAlias = Callable[[VinfError], None]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Connect:
    """Reach the server for the first time; nothing once that has happened."""


@dataclass(frozen=True, slots=True)
class Call:
    """Make one call of the method with this name."""

    method: str
    request: Message
    timeout: float | None = None  # seconds; None: those of the transport


@dataclass(frozen=True, slots=True)
class Gather:
    """Make one call that answers with a stream, and bring all its messages as a list."""

    method: str
    request: Message


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Do what needs the disk or the processor, and bring its result."""

    work: Callable[[], Any]


Effect: TypeAlias = Connect | Call | Gather | Pause | Work
Flow: TypeAlias = Generator[Effect, Any, Result]


@dataclass(frozen=True, slots=True)
class Submission:
    """A generation to be created."""

    arguments: SpecArguments
    job: JobArguments
    request_id: str
    on_wait: OnWait | None = None
    wait_ready: float = 0.0  # seconds


def first_contact(server: str, timeout: float) -> Flow[None]:
    """Call the server once.

    Raises:
        TransportError: nobody listens there, or nobody answered in time.
    """
    try:
        yield Call("GetServerInfo", info_pb.GetServerInfoRequest(), timeout)
    except RpcTimeoutError as error:
        # Not the timeout of a call that arrived: most likely a host that drops packets.
        raise TransportError(
            f"cannot reach a vinf server at {server}: no answer within {timeout:g} s", code="UNAVAILABLE"
        ) from error


def unary(method: str, request: Message, *, timeout: float | None = None) -> Flow[Any]:
    """Make one call; a broken connection is tried again (every call is idempotent)."""
    return (yield from _persistently(Call(method, request, timeout)))


def _persistently(call: Call | Gather) -> Flow[Any]:
    yield Connect()
    attempts = Attempts(_UNARY)
    while True:
        try:
            return (yield call)
        except TransportError as error:
            delay = attempts.failed(error)
        yield Pause(delay)


def submit(submission: Submission) -> Flow[tuple[Generation, bool]]:
    """Create a generation; wait as long as the caller has patience where the server asks to come back later.

    Returns:
        The generation, and whether an earlier call with the same request id had created it.
    """
    arguments, job = submission.arguments, submission.job
    yield from _refuse(arguments, job)
    patience = _Patience(submission.wait_ready, submission.on_wait)
    try:
        model = None
        if arguments.customises_scope or arguments.needs_frame_count:
            model = yield from patience.until(lambda: _model(arguments.model))
        # One id for all tries: a reply that got lost does not start a second generation.
        spec = yield from _build(arguments, model)
        request = service_pb.CreateGenerationRequest(request_id=submission.request_id, spec=spec)
        write_job(request, job, now=(yield from _now(job)))
        reply = yield from patience.until(lambda: unary("CreateGeneration", request))
    except VinfError as error:
        error.request_id = submission.request_id
        raise
    return _convert.generation(reply.generation), reply.deduplicated


def check_only(arguments: SpecArguments, job: JobArguments) -> Flow[None]:
    """Have the server check a generation and queue nothing."""
    yield from _refuse(arguments, job)
    needs_model = arguments.customises_scope or arguments.needs_frame_count
    model = (yield from _model(arguments.model)) if needs_model else None
    spec = yield from _build(arguments, model)
    request = service_pb.CreateGenerationRequest(spec=spec, validate_only=True)
    write_job(request, job, now=(yield from _now(job)))
    yield from unary("CreateGeneration", request)


def get(generation_id: str) -> Flow[Generation]:
    """Ask for a snapshot."""
    reply = yield from unary("GetGeneration", service_pb.GetGenerationRequest(generation_id=generation_id))
    return _convert.generation(reply.generation)


def cancel(generation_id: str, timeout: float | None) -> Flow[Generation]:
    """Ask for the end of a generation."""
    request = service_pb.CancelGenerationRequest(generation_id=generation_id)
    reply = yield from unary("CancelGeneration", request, timeout=timeout)
    return _convert.generation(reply.generation)


def delete(generation_id: str) -> Flow[None]:
    """Have a generation forgotten."""
    yield from unary("DeleteGeneration", service_pb.DeleteGenerationRequest(generation_id=generation_id))


def list_generations(limit: int, states: Iterable[GenerationState | str]) -> Flow[list[Generation]]:
    """Turn pages until there are `limit`."""
    numbers = [_convert.STATE_NUMBERS[GenerationState(state)] for state in states]
    found: list[Generation] = []
    token = ""
    while len(found) < limit:
        request = service_pb.ListGenerationsRequest(
            page_size=min(_PAGE_SIZE, limit - len(found)), page_token=token, states=numbers
        )
        reply = yield from unary("ListGenerations", request)
        found += [_convert.generation(message) for message in reply.generations]
        token = reply.next_page_token
        if not token:
            break
    return found[:limit]


def trace(generation_id: str) -> Flow[Trace]:
    """Ask what happened when."""
    request = service_pb.GetTraceRequest(generation_id=generation_id)
    messages = yield from _persistently(Gather("GetTrace", request))
    return read_trace(generation_id, messages)


def info() -> Flow[ServerInfo]:
    """Ask what the server is and can do."""
    reply = yield from unary("GetServerInfo", info_pb.GetServerInfoRequest())
    return _convert.server_info(reply.server_info)


def poll_end(generation_id: str, timeout: float) -> Flow[Generation]:
    """Ask again and again until a generation has ended.

    Raises:
        RpcTimeoutError: it has not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    attempt = 0
    while True:
        generation = yield from get(generation_id)
        if generation.ended:
            return generation
        left = deadline - time.monotonic()
        if left <= 0:
            raise RpcTimeoutError(f"generation {generation_id} is not finished yet", code="DEADLINE_EXCEEDED")
        attempt += 1
        yield Pause(min(_POLL.delay(attempt), left))


def succeeded(generation: Generation) -> Generation:
    """Return a generation that succeeded.

    Raises:
        GenerationFailedError, GenerationCancelledError: it ended otherwise.
    """
    if generation.state is not GenerationState.SUCCEEDED:
        raise failure_error(generation.error, generation.state, generation.generation_id)
    return generation


class _Patience:
    """Calls again while the server asks to come back later, for so many seconds in all."""

    def __init__(self, seconds: float, on_wait: OnWait | None) -> None:
        self._deadline = time.monotonic() + seconds
        self._on_wait = on_wait

    def until(self, flow: Callable[[], Flow[Result]]) -> Flow[Result]:
        attempt = 0
        while True:
            try:
                return (yield from flow())
            except ServerDrainingError:
                raise
            except (ServerNotReadyError, QueueFullError, ClientLimitError) as error:
                left = self._deadline - time.monotonic()
                if left <= 0 or (isinstance(error, ClientLimitError) and error.retry_after is None):
                    raise
                attempt += 1
                if self._on_wait is not None:
                    self._on_wait(error)
                delay = min(left, error.retry_after or _WAIT.delay(attempt))
            yield Pause(delay)


def _build(arguments: SpecArguments, model: Model | None, *, without: Collection[str] = ()) -> Flow[pb.GenerationSpec]:
    """Write the specification; what it leaves to the model is the model's, where there is one."""
    scope = None if model is None else model.default_temporal_scope
    frames = 1 if model is None else model.default_frame_count
    work = partial(build, arguments, scope=scope, frame_count=frames, without=without)
    return (yield from _aside(arguments, work))


def _check(arguments: SpecArguments, found: ServerInfo | None = None) -> Flow[list[Violation]]:
    return (yield from _aside(arguments, lambda: check(arguments, found)))


def _aside(arguments: SpecArguments, work: Callable[[], Result]) -> Flow[Result]:
    """Do what takes no time unless there are pictures to read."""
    if arguments.image_conditions is None:
        return work()
    result: Result = yield Work(work)
    return result


def _model(name: str | None) -> Flow[Model | None]:
    found = yield from info()
    if not found.models:
        raise ServerNotReadyError("the ranks have not reported yet", code="UNAVAILABLE", reason="WORKERS_NOT_READY")
    return found.model(name)  # Create reports the unknown model


def _now(job: JobArguments) -> Flow[datetime]:
    """Ask for the server's clock where a deadline counts from now: it may differ from ours."""
    if job.deadline is None or isinstance(job.deadline, datetime):
        return datetime.now(UTC)
    found = yield from info()
    return found.server_time or datetime.now(UTC)


def _refuse(arguments: SpecArguments, job: JobArguments) -> Flow[None]:
    violations = [*(yield from _check(arguments)), *check_job(job)]
    if violations:
        violations = yield from _with_server_violations(arguments, job, violations)
        raise InvalidRequestError.of(violations)


def _with_server_violations(
    arguments: SpecArguments, job: JobArguments, violations: Sequence[Violation]
) -> Flow[list[Violation]]:
    """Add what the server would refuse as well, so that the caller mends everything in one go."""
    violations = list(violations)
    try:
        found = yield from info()
        violations = [*(yield from _check(arguments, found)), *check_job(job)]
        refused = {violation.field for violation in violations}
        spec = yield from _build(arguments, found.model(arguments.model), without=refused)
        request = service_pb.CreateGenerationRequest(spec=spec, validate_only=True)
        write_job(request, job, now=found.server_time or datetime.now(UTC), without=refused)
        yield from unary("CreateGeneration", request)
    except InvalidRequestError as error:
        known = {violation.field for violation in violations}
        # Of a list with an entry that was left out, the server saw less than there is.
        known |= {field.partition("[")[0] for field in known if "[" in field}
        violations += [violation for violation in error.violations if violation.field not in known]
    except ModelNotFoundError as error:
        violations.append(Violation("spec.model", error.message))
    except VinfError:
        pass  # unreachable or not ready: what is known already is reason enough to refuse
    return violations
