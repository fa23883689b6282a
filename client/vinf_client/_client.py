"""The synchronous client."""

import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self, TypeVar, Unpack

from vinf.v1 import server_info_service_pb2 as info_pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client import _convert
from vinf_client._access import Access, FilePath
from vinf_client._errors import (
    ClientLimitError,
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    ServerDrainingError,
    ServerNotReadyError,
    VinfError,
    Violation,
)
from vinf_client._generation import GenerationHandle, Video
from vinf_client._job import JobArguments, check_job, write_job
from vinf_client._request import SpecArguments, SpecOptions, build, check
from vinf_client._retry import Backoff
from vinf_client._transport import DEFAULT_SERVER, Transport
from vinf_client._types import Generation, GenerationState, Progress, ServerInfo, TemporalScope

RESUME_ATTEMPTS = 10

_PAGE_SIZE = 500
_WAIT = Backoff(initial=0.25, factor=1.5, maximum=2.0)

OnProgress = Callable[[Progress], None]
OnWait = Callable[[VinfError], None]
Result = TypeVar("Result")


class Client:
    """A vinf server, seen from Python. Thread-safe.

    >>> with Client() as client:                                               # doctest: +SKIP
    ...     for frame in client.generate("a red ball bouncing over the sea", frames=96, seed=7):
    ...         show(frame)

    Args:
        server: "host:port" of the server.
        token: shows a server that asks for one who you are; unset: $VINF_TOKEN, empty: none. It is never sent without
            encryption to another machine.
        tls: encrypt, and trust the system's authorities; unset: when $VINF_TLS is 1 or any file below is given.
        tls_ca: PEM file of the authorities to trust instead; unset: $VINF_TLS_CA.
        tls_cert: PEM file of your own certificate, for servers that ask for one; unset: $VINF_TLS_CERT.
        tls_key: PEM file of its private key; unset: $VINF_TLS_KEY.
        insecure: send the token without encryption to another machine all the same.
        connect_timeout: seconds until a silent address counts as unreachable; a refused connection fails at once.
        rpc_timeout: seconds one call may take. Streams and generations take as long as they take.
        resume_attempts: how often in a row a broken stream is opened again.

    Raises:
        InvalidRequestError: an argument cannot work.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        token: str | None = None,
        tls: bool | None = None,
        tls_ca: FilePath | None = None,
        tls_cert: FilePath | None = None,
        tls_key: FilePath | None = None,
        insecure: bool = False,
        connect_timeout: float = 5.0,
        rpc_timeout: float = 30.0,
        resume_attempts: int = RESUME_ATTEMPTS,
    ) -> None:
        access = Access(
            token=token, tls=tls, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key, insecure=insecure
        ).completed(os.environ)
        self._transport = Transport(server, connect_timeout=connect_timeout, rpc_timeout=rpc_timeout, access=access)
        self._backoff = Backoff(attempts=resume_attempts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; generations go on. Calls that other threads have under way end with an error."""
        self._transport.close()

    def generate(
        self,
        prompt: str,
        *,
        on_progress: OnProgress | None = None,
        on_wait: OnWait | None = None,
        wait_ready: float = 60.0,
        request_id: str | None = None,
        detached: bool = False,
        priority: int | None = None,
        deadline: float | timedelta | datetime | None = None,
        lease: float | timedelta | None = None,
        labels: Mapping[str, str] | None = None,
        preview_every: int | None = None,
        **options: Unpack[SpecOptions],
    ) -> Video:
        """Start a generation and return its video, to be iterated over.

        Leaving early cancels the generation unless it is detached.

        Args:
            prompt: what the video shows.
            on_progress: called with each change of progress, from a thread of the SDK; keep it short.
            on_wait: called with the reason before each pause: the server is not ready, its queue is full, or the
                connection broke and is taken up again.
            wait_ready: seconds to wait for a server whose ranks still start or whose queue is full.
            request_id: a UUID; the same id with the same options is the same generation. A new one for each call
                by default.
            detached: whether it goes on without a client; otherwise the server cancels it when its clients have
                been gone for longer than the lease.
            priority: from 0 to 9, higher ones run first; 5 by default.
            deadline: seconds from now, or a moment, until which it must have ended; otherwise it fails.
            lease: seconds that it outlives its clients; 60 by default.
            labels: texts for your own use, shown again with the generation.
            preview_every: denoising steps between the previews that `GenerationHandle.updates` brings; none by default.
            options: see `SpecOptions`; each one left out is the server's default.

        Raises:
            InvalidRequestError: with every violation, those the server found too.
            ModelNotFoundError, QueueFullError, ClientLimitError, DiskFullError, ServerNotReadyError, TransportError:
                see `_errors`.
        """
        handle = self.submit(
            prompt,
            on_wait=on_wait,
            wait_ready=wait_ready,
            request_id=request_id,
            detached=detached,
            priority=priority,
            deadline=deadline,
            lease=lease,
            labels=labels,
            preview_every=preview_every,
            **options,
        )
        return Video(handle, on_progress=on_progress, on_wait=on_wait, cancel_on_leave=not detached)

    def submit(
        self,
        prompt: str,
        *,
        on_wait: OnWait | None = None,
        wait_ready: float = 60.0,
        request_id: str | None = None,
        detached: bool = False,
        priority: int | None = None,
        deadline: float | timedelta | datetime | None = None,
        lease: float | timedelta | None = None,
        labels: Mapping[str, str] | None = None,
        preview_every: int | None = None,
        **options: Unpack[SpecOptions],
    ) -> GenerationHandle:
        """Start a generation and return at once; it goes on until it ends or `GenerationHandle.cancel`.

        One that is not detached is cancelled by the server when nobody has asked for it for as long as its lease.
        Arguments and errors are those of `generate`.
        """
        arguments = SpecArguments(prompt=prompt, **options)
        job = JobArguments(
            request_id=request_id,
            detached=detached,
            priority=priority,
            deadline=deadline,
            lease=lease,
            labels=labels,
            preview_every=preview_every,
        )
        violations = [*check(arguments), *check_job(job)]
        if violations:
            raise InvalidRequestError.of(self._with_server_violations(arguments, job, violations))
        patience = time.monotonic() + wait_ready
        scope = None
        if arguments.customises_scope:
            scope = self._until(patience, on_wait, lambda: self._default_scope(arguments.model))
        # One id for all tries: a reply that got lost does not start a second generation.
        request = service_pb.CreateGenerationRequest(
            request_id=request_id or str(uuid.uuid4()), spec=build(arguments, scope=scope)
        )
        write_job(request, job, now=self._server_time)
        reply = self._until(
            patience, on_wait, lambda: self._transport.unary(self._transport.generations.CreateGeneration, request)
        )
        return GenerationHandle(self._transport, _convert.generation(reply.generation), backoff=self._backoff)

    def check(
        self,
        prompt: str,
        *,
        detached: bool = False,
        priority: int | None = None,
        deadline: float | timedelta | datetime | None = None,
        labels: Mapping[str, str] | None = None,
        preview_every: int | None = None,
        **options: Unpack[SpecOptions],
    ) -> None:
        """Return when the server would take this generation as far as its arguments go; queues nothing.

        Arguments are those of `generate`.

        Raises:
            InvalidRequestError: with every violation.
            ModelNotFoundError, ServerNotReadyError, TransportError: see `_errors`.
        """
        arguments = SpecArguments(prompt=prompt, **options)
        job = JobArguments(
            detached=detached, priority=priority, deadline=deadline, labels=labels, preview_every=preview_every
        )
        violations = [*check(arguments), *check_job(job)]
        if violations:
            raise InvalidRequestError.of(self._with_server_violations(arguments, job, violations))
        scope = self._default_scope(arguments.model) if arguments.customises_scope else None
        request = service_pb.CreateGenerationRequest(spec=build(arguments, scope=scope), validate_only=True)
        write_job(request, job, now=self._server_time)
        self._transport.unary(self._transport.generations.CreateGeneration, request)

    def attach(self, generation_id: str) -> GenerationHandle:
        """Take hold of a generation that somebody started.

        Raises:
            GenerationNotFoundError: the server does not know it.
        """
        request = service_pb.GetGenerationRequest(generation_id=generation_id)
        reply = self._transport.unary(self._transport.generations.GetGeneration, request)
        return GenerationHandle(self._transport, _convert.generation(reply.generation), backoff=self._backoff)

    def delete(self, generation_id: str) -> None:
        """Have the server forget a generation that has ended, and remove its frames.

        Raises:
            WrongStateError: it has not ended; cancel it first.
            GenerationNotFoundError: the server does not know it; also the second time.
        """
        request = service_pb.DeleteGenerationRequest(generation_id=generation_id)
        self._transport.unary(self._transport.generations.DeleteGeneration, request)

    def list(self, *, limit: int = 50, states: Iterable[GenerationState | str] = ()) -> list[Generation]:
        """Return the newest generations, at most `limit`, only those in `states` when given."""
        numbers = [_convert.STATE_NUMBERS[GenerationState(state)] for state in states]
        found: list[Generation] = []
        token = ""
        while len(found) < limit:
            request = service_pb.ListGenerationsRequest(
                page_size=min(_PAGE_SIZE, limit - len(found)), page_token=token, states=numbers
            )
            reply = self._transport.unary(self._transport.generations.ListGenerations, request)
            found += [_convert.generation(message) for message in reply.generations]
            token = reply.next_page_token
            if not token:
                break
        return found[:limit]

    def info(self) -> ServerInfo:
        """Ask what the server is and can do; answers also while the ranks are not ready."""
        reply = self._transport.unary(self._transport.server_info.GetServerInfo, info_pb.GetServerInfoRequest())
        return _convert.server_info(reply.server_info)

    def _until(self, deadline: float, on_wait: OnWait | None, call: Callable[[], Result]) -> Result:
        """Call again while the server asks to come back later, until `deadline`."""
        attempt = 0
        while True:
            try:
                return call()
            except ServerDrainingError:
                raise
            except (ServerNotReadyError, QueueFullError, ClientLimitError) as error:
                left = deadline - time.monotonic()
                if left <= 0 or (isinstance(error, ClientLimitError) and error.retry_after is None):
                    raise
                attempt += 1
                if on_wait is not None:
                    on_wait(error)
                self._transport.pause(min(left, error.retry_after or _WAIT.delay(attempt)))

    def _default_scope(self, name: str | None) -> TemporalScope | None:
        info = self.info()
        if not info.models:
            raise ServerNotReadyError("the ranks have not reported yet", code="UNAVAILABLE", reason="WORKERS_NOT_READY")
        model = info.model(name)
        return model.default_temporal_scope if model is not None else None  # Create reports the unknown model

    def _server_time(self) -> datetime:
        """Ask for the server's clock, which may differ from ours; ours where the server does not tell."""
        return self.info().server_time or datetime.now(UTC)

    def _with_server_violations(
        self, arguments: SpecArguments, job: JobArguments, violations: Sequence[Violation]
    ) -> Sequence[Violation]:
        """Add what the server would refuse as well, so that the caller mends everything in one go."""
        try:
            info = self.info()
            violations = [*check(arguments, info), *check_job(job)]
            refused = {violation.field for violation in violations}
            model = info.model(arguments.model)
            spec = build(
                arguments,
                scope=model.default_temporal_scope if model is not None else None,
                without=refused,
            )
            request = service_pb.CreateGenerationRequest(spec=spec, validate_only=True)
            write_job(request, job, now=lambda: info.server_time or datetime.now(UTC), without=refused)
            self._transport.unary(self._transport.generations.CreateGeneration, request)
        except InvalidRequestError as error:
            known = {violation.field for violation in violations}
            violations = [*violations, *(found for found in error.violations if found.field not in known)]
        except ModelNotFoundError as error:
            violations = [*violations, Violation("spec.model", error.message)]
        except VinfError:
            pass  # unreachable or not ready: what is known already is reason enough to refuse
        return violations
