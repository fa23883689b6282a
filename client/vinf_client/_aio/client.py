"""The asynchronous client."""

import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, Unpack

from vinf_client import _flows
from vinf_client._access import Access, FilePath, resolve
from vinf_client._aio.generation import AsyncGenerationHandle
from vinf_client._aio.transport import AsyncTransport
from vinf_client._aio.video import AsyncVideo
from vinf_client._client_options import RESUME_ATTEMPTS, STALL_TIMEOUT, persistence_of, spec_of, submission_of
from vinf_client._format import FormatLike
from vinf_client._generation import PREFETCH, OnProgress, OnWait
from vinf_client._job import JobArguments
from vinf_client._request import SpecOptions
from vinf_client._trace import Trace
from vinf_client._types import Generation, GenerationState, ServerInfo
from vinf_client._wanted import check_reading


class AsyncClient:
    """A vinf server, seen from an event loop: `Client`, awaited. It belongs to the loop of its first call.

    >>> import asyncio
    >>> from vinf_client.testing import FakeServer
    >>> async def main(address):
    ...     async with AsyncClient(address) as client:
    ...         async for frame in await client.generate("a red ball bouncing over the sea", frames=2):
    ...             print(frame.index)
    >>> with FakeServer() as server:
    ...     asyncio.run(main(server.address))
    0
    1

    Arguments and errors are those of `Client`.
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
        self._transport = AsyncTransport(
            address, connect_timeout=connect_timeout, rpc_timeout=rpc_timeout, access=access
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def server(self) -> str:
        """The address it talks to."""
        return self._transport.server

    async def close(self) -> None:
        """Close the connection; generations go on. Calls that other tasks have under way end with an error."""
        await self._transport.close()

    aclose = close

    async def generate(
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
    ) -> AsyncVideo:
        """Start a generation and return its video, to be iterated over.

        Leaving early cancels the generation unless it is detached. Arguments and errors are those of `Client.generate`;
        callbacks are called from the event loop.
        """
        check_reading(format, latency, prefetch)
        handle = await self.submit(
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
        return AsyncVideo(
            handle,
            format=format,
            latency=latency,
            prefetch=prefetch,
            on_progress=on_progress,
            on_wait=on_wait,
            cancel_on_leave=not detached,
        )

    async def submit(
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
    ) -> AsyncGenerationHandle:
        """Start a generation and return at once; it goes on until it ends or `AsyncGenerationHandle.cancel`.

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
        generation, deduplicated = await self._transport.run(_flows.submit(submission))
        return AsyncGenerationHandle(
            self._transport,
            generation,
            persistence=self._persistence,
            request_id=submission.request_id,
            deduplicated=deduplicated,
        )

    async def check(
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
        await self._transport.run(_flows.check_only(spec_of(prompt, options), job))

    async def attach(self, generation_id: str) -> AsyncGenerationHandle:
        """Take hold of a generation that somebody started.

        Raises:
            GenerationNotFoundError: the server does not know it.
        """
        generation = await self._transport.run(_flows.get(generation_id))
        return AsyncGenerationHandle(self._transport, generation, persistence=self._persistence)

    async def delete(self, generation_id: str) -> None:
        """Have the server forget a generation that has ended, and remove its frames.

        Raises:
            WrongStateError: it has not ended; cancel it first.
            GenerationNotFoundError: the server does not know it; also the second time.
        """
        await self._transport.run(_flows.delete(generation_id))

    async def trace(self, generation_id: str) -> Trace:
        """Return what the server and every rank did for a generation, and when; also while it is made.

        Raises:
            GenerationNotFoundError: the server does not know it.
        """
        return await self._transport.run(_flows.trace(generation_id))

    async def list(self, *, limit: int = 50, states: Iterable[GenerationState | str] = ()) -> list[Generation]:
        """Return the newest generations, at most `limit`, only those in `states` when given."""
        return await self._transport.run(_flows.list_generations(limit, states))

    async def info(self) -> ServerInfo:
        """Ask what the server is and can do; answers also while the ranks are not ready."""
        return await self._transport.run(_flows.info())
