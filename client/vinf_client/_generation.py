"""A generation in the hands of its owner: the handle, and the video one iterates over."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from types import TracebackType
from typing import Self

from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client import _convert
from vinf_client._errors import RpcTimeoutError, VinfError
from vinf_client._frames import Image, read_frames
from vinf_client._retry import Backoff
from vinf_client._translate import failure_error
from vinf_client._transport import Transport
from vinf_client._types import Generation, GenerationState, Progress, Update
from vinf_client._watch import ProgressThread, Watch

log = logging.getLogger("vinf_client")

_CANCEL_TIMEOUT = 5.0  # seconds; who leaves does not want to wait


class GenerationHandle:
    """One generation on a server. It goes on whether or not anybody holds a handle; `cancel` ends it."""

    def __init__(self, transport: Transport, generation: Generation, *, backoff: Backoff) -> None:
        self._transport = transport
        self._backoff = backoff
        self.generation = generation
        """The newest snapshot this handle has seen."""

    def __repr__(self) -> str:
        return f"GenerationHandle({self.generation_id!r}, {self.generation.state.value})"

    @property
    def generation_id(self) -> str:
        """What `Client.attach` takes."""
        return self.generation.generation_id

    @property
    def progress(self) -> Progress:
        """How far it has come; asks the server."""
        return self.refresh().progress

    def refresh(self) -> Generation:
        """Ask the server for a new snapshot."""
        request = service_pb.GetGenerationRequest(generation_id=self.generation_id)
        reply = self._transport.unary(self._transport.generations.GetGeneration, request)
        self.generation = _convert.generation(reply.generation)
        return self.generation

    def frames(self, start: int = 0, *, on_wait: Callable[[VinfError], None] | None = None) -> Iterator[Image]:
        """Iterate over the frames from index `start`, uint8 ``[H, W, 3]``, as they are made.

        Leaving early closes the stream and leaves the generation alone. Broken streams are resumed;
        `on_wait` is called with each break before the next try.

        Raises:
            GenerationFailedError, GenerationCancelledError: the generation ended before its last frame.
        """
        return read_frames(self._transport, self.generation_id, start=start, backoff=self._backoff, on_wait=on_wait)

    def watch(self, on_progress: Callable[[Progress], None]) -> ProgressThread:
        """Call back with each change from a thread of the SDK, until the result is closed."""
        return ProgressThread(self._transport, self.generation_id, backoff=self._backoff, callback=on_progress)

    def updates(
        self, after_sequence: int = 0, *, previews: bool = False, on_wait: Callable[[VinfError], None] | None = None
    ) -> Iterator[Update]:
        """Iterate over snapshots and changes of state until it has ended; resumes across restarts of the server.

        Args:
            after_sequence: events up to this one are left out; 0 brings all since it was created.
            previews: whether to bring previews, too; there are some when they were asked for with `preview_every`.
            on_wait: called with each break before the next try.

        Raises:
            GenerationNotFoundError: it was deleted.
            TransportError: the stream broke more often in a row than the client allows.
        """
        watch = Watch(
            self._transport,
            self.generation_id,
            backoff=self._backoff,
            after_sequence=after_sequence,
            previews=previews,
            on_wait=on_wait,
        )
        for update in watch:
            self.generation = update.generation
            yield update

    def wait(self, timeout: float | None = None) -> Generation:
        """Wait until it succeeded, and return the last snapshot.

        Raises:
            GenerationFailedError, GenerationCancelledError: it ended otherwise.
            RpcTimeoutError: `timeout` seconds went by; the generation goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if deadline is None:
            for _ in self.updates():
                pass
        else:
            self._poll(deadline)
        if self.generation.state is not GenerationState.SUCCEEDED:
            raise failure_error(self.generation.error, self.generation.state, self.generation_id)
        return self.generation

    def cancel(self, *, timeout: float | None = None) -> Generation:
        """Ask for its end, and return the snapshot after; a finished generation stays as it is."""
        request = service_pb.CancelGenerationRequest(generation_id=self.generation_id)
        reply = self._transport.unary(self._transport.generations.CancelGeneration, request, timeout=timeout)
        self.generation = _convert.generation(reply.generation)
        return self.generation

    def delete(self) -> None:
        """Have the server forget it and remove its frames.

        Raises:
            WrongStateError: it has not ended; cancel it first.
            GenerationNotFoundError: it is deleted already.
        """
        request = service_pb.DeleteGenerationRequest(generation_id=self.generation_id)
        self._transport.unary(self._transport.generations.DeleteGeneration, request)

    def _poll(self, deadline: float) -> None:
        pause = 0.05
        while not self.refresh().ended:
            left = deadline - time.monotonic()
            if left <= 0:
                raise RpcTimeoutError(f"generation {self.generation_id} is not finished yet", code="DEADLINE_EXCEEDED")
            self._transport.pause(min(pause, left))
            pause = min(1.0, pause * 1.5)


class Video:
    """A video being made: iterate over its frames, uint8 ``[H, W, 3]``, as they arrive.

    Leaving early, by `break`, by an exception or by `close`, cancels the generation, unless it is detached. `with`
    makes the moment certain.
    """

    def __init__(
        self,
        handle: GenerationHandle,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_wait: Callable[[VinfError], None] | None = None,
        cancel_on_leave: bool = True,
    ) -> None:
        self.handle = handle
        self._cancel_on_leave = cancel_on_leave
        self._on_progress = on_progress
        self._on_wait = on_wait
        self._over = False
        spec = handle.generation.spec
        self.generation_id: str = handle.generation_id
        self.frame_count: int = spec.frame_count
        self.width: int = spec.width
        self.height: int = spec.height
        self.frame_rate: Fraction = spec.frame_rate

    def __len__(self) -> int:
        return self.frame_count

    def __repr__(self) -> str:
        return f"Video({self.generation_id!r}, {self.frame_count} frames of {self.width}x{self.height})"

    def __iter__(self) -> Iterator[Image]:
        """Read from the first frame; a second iteration reads the same frames again."""
        return self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the generation unless it is over or detached. A no-op the second time."""
        if self._over or not self._cancel_on_leave:
            return
        self._over = True
        # Errors here would hide what made the caller leave; an unreachable server ends the generation by itself.
        with suppress(VinfError):
            self.handle.cancel(timeout=_CANCEL_TIMEOUT)
            log.info("generation %s: cancelled, its reader left", self.generation_id)

    def _read(self) -> Iterator[Image]:
        progress = self.handle.watch(self._on_progress) if self._on_progress is not None else None
        try:
            yield from self.handle.frames(on_wait=self._on_wait)
            self._over = True
        except VinfError:
            # It failed, or the server is out of reach for good: nothing is left to cancel.
            self._over = True
            raise
        finally:
            if progress is not None:
                progress.close()
            self.close()
