"""The work of `vinf batch`: a few threads, each with one video at a time in the server's hands."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

import numpy as np

from vinf_client._client import Client
from vinf_client._errors import (
    AuthenticationError,
    ClientClosedError,
    ClientLimitError,
    DiskFullError,
    OutputError,
    ProtocolError,
    QueueFullError,
    ServerNotReadyError,
    TransportError,
    VinfError,
)
from vinf_client._generation import GenerationHandle
from vinf_client._types import Generation, GenerationState, Progress
from vinf_client._writers import VideoShape
from vinf_client.cli.batch_folder import Folder
from vinf_client.cli.batch_items import Item

_PAUSE = 2.0  # seconds before another try, when the server does not say
_PATIENCE = 600.0  # seconds that a server may be away
_CANCEL_TIMEOUT = 5.0  # seconds
_MOST_ATTEMPTS = 100

# What would meet every other video as well.
_FATAL = (AuthenticationError, DiskFullError, OutputError, ProtocolError, ServerNotReadyError, TransportError)

Result = TypeVar("Result")


class BatchDisplay(Protocol):
    """Shows a batch. Any thread may call any method."""

    def started(self, item: Item) -> None:
        """Show that an item is begun."""

    def update(self, item: Item, progress: Progress) -> None:
        """Show how far an item is."""

    def waiting(self, item: Item, reason: VinfError) -> None:
        """Show why an item does not go on."""

    def saved(self, item: Item, frames: int, seconds: float) -> None:
        """Show that an item is done."""

    def failed(self, item: Item, error: VinfError) -> None:
        """Show that an item failed."""

    def close(self) -> None:
        """Leave the terminal as it was found. A no-op the second time."""


class Batch:
    """Makes videos, a few at a time, until all are done or `stop`.

    Args:
        client: of the server.
        folder: where they go.
        display: shows what happens.
        in_flight: videos that are in the server's hands at a time.
        retry_failed: make anew what failed in an earlier run.
        delete: have the server forget what is saved.
        on_saved: told of each video that is saved: item, generation, frames and seconds.
    """

    def __init__(
        self,
        client: Client,
        folder: Folder,
        display: BatchDisplay,
        *,
        in_flight: int,
        retry_failed: bool,
        delete: bool,
        on_saved: Callable[[Item, Generation, int, float], None],
    ) -> None:
        self.failures: list[tuple[Item, VinfError]] = []
        self.saved = 0
        self.fatal: VinfError | None = None
        """What made the batch stop before its end."""
        self._client = client
        self._folder = folder
        self._display = display
        self._in_flight = in_flight
        self._retry_failed = retry_failed
        self._delete = delete
        self._on_saved = on_saved
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._stopped = threading.Event()
        self._handles: set[GenerationHandle] = set()

    def run(self, items: Sequence[Item]) -> None:
        """Make them; what went wrong is in `failures` and `fatal` afterwards."""
        waiting = iter(items)
        threads = [
            threading.Thread(target=self._work_safely, args=(waiting,), name=f"vinf-batch-{index}", daemon=True)
            for index in range(min(self._in_flight, len(items)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Begin nothing more, and cancel what the server makes for us."""
        self._stopped.set()
        with self._lock:
            handles = list(self._handles)
        for handle in handles:
            with suppress(VinfError):
                handle.cancel(timeout=_CANCEL_TIMEOUT)

    def _work_safely(self, waiting: Iterator[Item]) -> None:
        try:
            self._work(waiting)
        except Exception as error:  # a thread that ended without a word would look as if all were done
            unexpected = VinfError(f"unexpected {type(error).__name__}: {error}")
            unexpected.__cause__ = error
            with self._lock:
                self.fatal = self.fatal or unexpected

    def _work(self, waiting: Iterator[Item]) -> None:
        while True:
            # Whoever takes an item submits it before another one is taken: the server gets them in the file's order.
            with self._turn:
                with self._lock:
                    item = None if self._stopped.is_set() or self.fatal is not None else next(waiting, None)
                if item is None:
                    return
                self._display.started(item)
                began = time.monotonic()
                try:
                    self._folder.clear(item)
                    handle = self._submit(item)
                except VinfError as error:
                    self._note_failure(item, error)
                    continue
            try:
                generation, frames, seconds = self._make(item, handle, began)
            except VinfError as error:
                self._note_failure(item, error)
                continue
            with self._lock:
                self.saved += 1
                self._on_saved(item, generation, frames, seconds)
            self._display.saved(item, frames, seconds)

    def _note_failure(self, item: Item, error: VinfError) -> None:
        if self._stopped.is_set() or isinstance(error, ClientClosedError):
            return  # it was cancelled by us: the next run makes it
        with self._lock:
            if isinstance(error, _FATAL):
                self.fatal = self.fatal or error
            else:
                self.failures.append((item, error))
        self._display.failed(item, error)

    def _make(self, item: Item, handle: GenerationHandle, began: float) -> tuple[Generation, int, float]:
        with self._held(handle):
            frames = self._save(item, handle)
            generation = handle.refresh()
        seconds = time.monotonic() - began
        self._folder.finish(item, generation, frames=frames, seconds=seconds)
        if self._delete:
            with suppress(VinfError):  # it is forgotten in time anyway
                handle.delete()
        return generation, frames, seconds

    def _submit(self, item: Item) -> GenerationHandle:
        """Start the generation, or find the one that an earlier run started.

        One that was cancelled is made anew; so is one that failed, if that is wanted.
        """
        handle = None
        again = {GenerationState.CANCELLED, *([GenerationState.FAILED] if self._retry_failed else [])}
        for attempt in range(_MOST_ATTEMPTS):
            request_id = item.request_id(self._folder.path, attempt)
            handle = self._patiently(item, lambda name=request_id: self._create(item, name))  # type: ignore[misc]
            # What this run has started may have failed already: that is not tried again.
            if handle.generation.state not in again or not handle.deduplicated:
                break
        assert handle is not None
        return handle

    def _create(self, item: Item, request_id: str) -> GenerationHandle:
        return self._client.submit(
            item.prompt,
            request_id=request_id,
            detached=True,  # killed, we leave it to the next run
            priority=item.priority,
            deadline=item.deadline,
            labels=item.labels or None,
            on_wait=lambda reason: self._display.waiting(item, reason),
            wait_ready=math.inf,
            **item.options,
        )

    def _patiently(self, item: Item, call: Callable[[], Result]) -> Result:
        """Call again while the server is full, busy or away."""
        began = time.monotonic()
        while True:
            try:
                return call()
            except (TransportError, ServerNotReadyError, QueueFullError, ClientLimitError) as error:
                is_away = isinstance(error, TransportError | ServerNotReadyError)
                if self._stopped.is_set() or (is_away and time.monotonic() - began > _PATIENCE):
                    raise
                self._display.waiting(item, error)
                self._stopped.wait(error.retry_after or _PAUSE)

    def _save(self, item: Item, handle: GenerationHandle) -> int:
        spec = handle.generation.spec
        target = self._folder.target(item)
        shape = VideoShape(spec.frame_count, spec.width, spec.height, spec.frame_rate)
        count = 0
        progress = handle.watch(lambda progress: self._display.update(item, progress))
        try:
            with target.open(shape) as writer:
                for frame in handle.frames(on_wait=lambda reason: self._display.waiting(item, reason)):
                    writer.write(np.asarray(frame))
                    count += 1
        finally:
            progress.close()
        return count

    @contextmanager
    def _held(self, handle: GenerationHandle) -> Iterator[None]:
        """Have `stop` cancel the generation meanwhile."""
        with self._lock:
            self._handles.add(handle)
        try:
            if self._stopped.is_set():
                handle.cancel(timeout=_CANCEL_TIMEOUT)
            yield
        finally:
            with self._lock:
                self._handles.discard(handle)
