"""The synchronous client."""

import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, Unpack

from vinf_client import _flows
from vinf_client._access import Access, FilePath, resolve
from vinf_client._client_options import RESUME_ATTEMPTS as RESUME_ATTEMPTS  # what the command asks for by default
from vinf_client._client_options import STALL_TIMEOUT, persistence_of, spec_of, submission_of
from vinf_client._format import FormatLike
from vinf_client._generation import PREFETCH, GenerationHandle, OnProgress, OnWait
from vinf_client._job import JobArguments
from vinf_client._request import SpecOptions
from vinf_client._trace import Trace
from vinf_client._transport import Transport
from vinf_client._types import Generation, GenerationState, ServerInfo
from vinf_client._video import Video
from vinf_client._wanted import check_reading


class Client:
    """A vinf server, seen from Python. Thread-safe.

    >>> from vinf_client.testing import FakeServer
    >>> with FakeServer() as server, Client(server.address) as client:
    ...     for frame in client.generate("a red ball bouncing over the sea", frames=2, seed=7):
    ...         print(frame.index, frame.to_numpy().shape)
    0 (64, 64, 3)
    1 (64, 64, 3)

    Server, token and TLS come from the arguments, else from the environment, else from the file of settings
    (~/.config/vinf/config.toml, with the keys server, token, token_file, tls, tls_ca, tls_cert, tls_key and insecure).

    Args:
        server: "host:port" of the server; unset: $VINF_SERVER, the settings, or 127.0.0.1:50051.
        token: shows a server that asks for one who you are; unset: $VINF_TOKEN, empty: none. It is never sent without
            encryption to another machine.
        tls: encrypt, and trust the system's authorities; unset: when $VINF_TLS is 1 or any file below is given.
        tls_ca: PEM file of the authorities to trust instead; unset: $VINF_TLS_CA.
        tls_cert: PEM file of your own certificate, for servers that ask for one; unset: $VINF_TLS_CERT.
        tls_key: PEM file of its private key; unset: $VINF_TLS_KEY.
        insecure: send the token without encryption to another machine all the same.
        connect_timeout: seconds until a silent address counts as unreachable; a refused connection fails at once.
        rpc_timeout: seconds one call may take. Streams and generations take as long as they take.
        stall_timeout: seconds without a frame or a sign of life after which a stream counts as broken; None: never.
        resume_attempts: how often in a row a broken stream is opened again.

    Raises:
        InvalidRequestError: an argument cannot work, or (`ConfigError`) the settings cannot be used.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        token: str | None = None,
        tls: bool | None = None,
        tls_ca: FilePath | None = None,
        tls_cert: FilePath | None = None,
        tls_key: FilePath | None = None,
        insecure: bool = False,
        connect_timeout: float = 5.0,
        rpc_timeout: float = 30.0,
        stall_timeout: float | None = STALL_TIMEOUT,
        resume_attempts: int = RESUME_ATTEMPTS,
    ) -> None:
        given = Access(token=token, tls=tls, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key, insecure=insecure)
        address, access = resolve(server, given, os.environ)
        self._persistence = persistence_of(stall_timeout, resume_attempts)
        self._transport = Transport(address, connect_timeout=connect_timeout, rpc_timeout=rpc_timeout, access=access)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def server(self) -> str:
        """The address it talks to."""
        return self._transport.server

    def close(self) -> None:
        """Close the connection; generations go on. Calls that other threads have under way end with an error."""
        self._transport.close()

    def generate(
        self,
        prompt: str,
        *,
        format: FormatLike = None,
        latency: str = "all",
        prefetch: int = PREFETCH,
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
            format: of the frames, see `GenerationHandle.frames`, as for the two that follow.
            latency: "all" or "low".
            prefetch: frames that are read ahead.
            on_progress: called with each change of progress, from a thread of the SDK; keep it short.
            on_wait: called with the reason before each pause: the server is not ready, its queue is full, or the
                connection broke and is taken up again, which is told from a thread of the SDK.
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
        check_reading(format, latency, prefetch)
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
        return Video(
            handle,
            format=format,
            latency=latency,
            prefetch=prefetch,
            on_progress=on_progress,
            on_wait=on_wait,
            cancel_on_leave=not detached,
        )

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
        job = JobArguments(
            request_id=request_id,
            detached=detached,
            priority=priority,
            deadline=deadline,
            lease=lease,
            labels=labels,
            preview_every=preview_every,
        )
        submission = submission_of(spec_of(prompt, options), job, on_wait=on_wait, wait_ready=wait_ready)
        generation, deduplicated = self._transport.run(_flows.submit(submission))
        return GenerationHandle(
            self._transport,
            generation,
            persistence=self._persistence,
            request_id=submission.request_id,
            deduplicated=deduplicated,
        )

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
        job = JobArguments(
            detached=detached, priority=priority, deadline=deadline, labels=labels, preview_every=preview_every
        )
        self._transport.run(_flows.check_only(spec_of(prompt, options), job))

    def attach(self, generation_id: str) -> GenerationHandle:
        """Take hold of a generation that somebody started.

        Raises:
            GenerationNotFoundError: the server does not know it.
        """
        generation = self._transport.run(_flows.get(generation_id))
        return GenerationHandle(self._transport, generation, persistence=self._persistence)

    def delete(self, generation_id: str) -> None:
        """Have the server forget a generation that has ended, and remove its frames.

        Raises:
            WrongStateError: it has not ended; cancel it first.
            GenerationNotFoundError: the server does not know it; also the second time.
        """
        self._transport.run(_flows.delete(generation_id))

    def trace(self, generation_id: str) -> Trace:
        """Return what the server and every rank did for a generation, and when; also while it is made.

        Raises:
            GenerationNotFoundError: the server does not know it.
        """
        return self._transport.run(_flows.trace(generation_id))

    def list(self, *, limit: int = 50, states: Iterable[GenerationState | str] = ()) -> list[Generation]:
        """Return the newest generations, at most `limit`, only those in `states` when given."""
        return self._transport.run(_flows.list_generations(limit, states))

    def info(self) -> ServerInfo:
        """Ask what the server is and can do; answers also while the ranks are not ready."""
        return self._transport.run(_flows.info())
