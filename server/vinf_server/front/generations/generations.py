"""The face of the room: admission, the queue, and what happens to a generation until it ends."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Collection, Sequence
from typing import Protocol

from google.rpc import code_pb2

from vinf.v1 import generation_pb2
from vinf_server.front.checkpoints import CheckpointStore
from vinf_server.front.errors import GenerationNotFoundError, RequestIdReusedError, ServerDrainingError
from vinf_server.front.frames.layout import frame_size_bytes
from vinf_server.front.frames.spool import Spool
from vinf_server.front.generations.generation import (
    CANCELLED,
    CANCELLING,
    FAILED,
    IN_WORK,
    PENDING,
    RUNNING,
    SUCCEEDED,
    TERMINAL,
    Failure,
    Generation,
    IdSource,
    Stage,
    State,
    Terms,
)
from vinf_server.front.generations.observe import FINISHED_REASONS, GenerationMetrics
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.store import GenerationStore
from vinf_server.front.metrics import Metrics

_log = logging.getLogger(__name__)

MAX_SEED = 2**63 - 1

MAX_IDLE_LOSSES = 3
"""Groups a generation may lose without getting anywhere before it is held to be the cause."""

_DEFAULT_TERMS = Terms()

_CANCEL_REQUESTED = Failure(code_pb2.CANCELLED, "CANCEL_REQUESTED", "cancelled by CancelGeneration")


class GenerationListener(Protocol):
    """Whoever hands generations to the ranks."""

    def generation_queued(self) -> None:
        """Called after a generation joined the queue."""

    def cancel_requested(self, generation: Generation) -> None:
        """Called after a generation in work became CANCELLING."""


class Generations:
    """All generations of this server. Runs on the event loop and never blocks it."""

    def __init__(
        self,
        *,
        store: GenerationStore,
        queue: GenerationQueue,
        spool: Spool,
        checkpoints: CheckpointStore,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._queue = queue
        self._spool = spool
        self._checkpoints = checkpoints
        self._observe = GenerationMetrics(metrics, queue_capacity=queue.capacity)
        self._ids = IdSource()
        self._listener: GenerationListener | None = None
        self._in_work: Generation | None = None
        self.is_draining = False

    # ---- for clients ----

    def subscribe(self, listener: GenerationListener) -> None:
        """Name the one that hands generations to the ranks."""
        self._listener = listener

    def create(
        self,
        normalised_spec: generation_pb2.GenerationSpec,
        terms: Terms = _DEFAULT_TERMS,
        *,
        request_id: str,
        validate_only: bool,
    ) -> tuple[Generation, bool]:
        """Admit a generation whose every default is filled in, the seed excepted.

        Returns the generation and whether it was there before; with `validate_only` nothing is kept.
        """
        known = self._store.find_request(terms.owner, request_id) if request_id else None
        if known is not None:
            if known.normalised_spec != normalised_spec:
                raise RequestIdReusedError(
                    f"request_id {request_id} belongs to generation {known.generation_id}, whose specification differs",
                    requestId=request_id,
                    generationId=known.generation_id,
                )
            return known, True
        self.check_accepting()
        self._queue.check_room()
        generation = self._new_generation(normalised_spec, terms, request_id=request_id)
        if validate_only:
            generation.generation_id = ""
            return generation, False
        self._queue.put(generation.generation_id)
        self._store.add(generation)
        self._observe.queue_changed(normalised_spec.model, len(self._queue))
        _log.info("generation %s is queued, %d frames", generation.generation_id, normalised_spec.frame_count)
        if self._listener is not None:
            self._listener.generation_queued()
        return generation, False

    def has_request(self, request_id: str, *, owner: str = "") -> bool:
        """Whether a generation of this owner was created with this request id."""
        return bool(request_id) and self._store.find_request(owner, request_id) is not None

    def check_accepting(self) -> None:
        """Raise `ServerDrainingError` when the server is shutting down."""
        if self.is_draining:
            raise ServerDrainingError("the server is shutting down")

    def get(self, generation_id: str) -> Generation:
        """Find a generation or raise `GenerationNotFoundError`."""
        generation = self.find(generation_id)
        if generation is None:
            shown = generation_id[:64]
            raise GenerationNotFoundError(f"no generation has the id {shown!r}", generationId=shown)
        return generation

    def find(self, generation_id: str) -> Generation | None:
        """Find a generation; None when there is none."""
        return self._store.get(generation_id)

    def page(
        self, *, before_id: str, states: Collection[State], limit: int, owner: str | None = None
    ) -> Sequence[Generation]:
        """Generations newest first, older than `before_id`; only those of `owner`, unless it is None."""
        return self._store.page(before_id=before_id, states=states, limit=limit, owner=owner)

    def cancel(self, generation_id: str) -> Generation:
        """Ask for the end of a generation; one that has ended stays as it is."""
        generation = self.get(generation_id)
        if generation.state == PENDING:
            self._queue.remove(generation_id)
            self._finish(generation, CANCELLED, _CANCEL_REQUESTED)
            self._queue_moved(generation.resolved_spec.model)
        elif generation.state == RUNNING:
            _log.info("generation %s is being cancelled", generation_id)
            generation.move_to(CANCELLING)
            if self._listener is not None:
                self._listener.cancel_requested(generation)
        return generation

    def queue_position(self, generation: Generation) -> int:
        """Generations in front of one that waits, the running one included."""
        if generation.state != PENDING or not generation.generation_id:
            return 0
        return self._queue.position(generation.generation_id) + (self._in_work is not None)

    @property
    def waiting_count(self) -> int:
        """Generations in the queue."""
        return len(self._queue)

    @property
    def running_count(self) -> int:
        """Generations the ranks work on."""
        return int(self._in_work is not None)

    def drain(self) -> None:
        """Take nothing new and end every stream."""
        self.is_draining = True
        before_id = ""
        while page := self._store.page(before_id=before_id, states=(), limit=500):
            for generation in page:
                generation.changed.notify()
            before_id = page[-1].generation_id

    # ---- for the engine ----

    def start_next(self) -> Generation | None:
        """Take the next generation off the queue and call it running; None when nobody waits."""
        assert self._in_work is None, "one generation at a time"
        generation_id = self._queue.take()
        if generation_id is None:
            return None
        generation = self.get(generation_id)
        is_resumed = generation.start_time_ns != 0
        generation.start_time_ns = generation.start_time_ns or time.time_ns()
        generation.stage = generation_pb2.GENERATION_STAGE_UNSPECIFIED
        self._in_work = generation
        generation.move_to(RUNNING)
        (self._observe.resumed if is_resumed else self._observe.started)(generation)
        self._queue_moved(generation.resolved_spec.model)
        _log.info("generation %s is running", generation_id)
        return generation

    def interrupt(self, generation: Generation) -> bool:
        """Let a running generation wait, first in the queue, for other ranks than those that were lost.

        Returns False, and changes nothing, when it got nowhere on `MAX_IDLE_LOSSES` groups in a row: neither a newer
        checkpoint nor one more frame.
        """
        got = (generation.checkpoints.newest_step, generation.frames.completed_count)
        generation.idle_loss_count = generation.idle_loss_count + 1 if got == generation.last_loss else 0
        generation.last_loss = got
        if generation.idle_loss_count >= MAX_IDLE_LOSSES:
            return False
        generation.checkpoints.drop_incomplete()
        generation.stage = generation_pb2.GENERATION_STAGE_QUEUED
        generation.completed_steps = generation.checkpoints.newest_step
        self._in_work = None
        self._queue.put_back(generation.generation_id)
        generation.move_to(PENDING, "WORKER_LOST")
        self._observe.interrupted(generation)
        self._queue_moved(generation.resolved_spec.model)
        return True

    def in_work(self, generation_id: str) -> Generation | None:
        """The generation the ranks work on, if it has this id."""
        generation = self._in_work
        return generation if generation is not None and generation.generation_id == generation_id else None

    def planned(self, generation: Generation, clip_frame_counts: Sequence[int]) -> None:
        """The ranks have split the video into clips."""
        generation.clip_frame_counts = tuple(clip_frame_counts)
        generation.changed.notify()

    def progressed(self, generation: Generation, stage: Stage, completed_steps: int, step_seconds: float) -> None:
        """A stage began or a step ended."""
        generation.stage = stage
        generation.completed_steps = completed_steps
        if step_seconds > 0:
            self._observe.step_ended(generation, step_seconds)
        generation.changed.notify()

    def checkpoint_written(self, generation: Generation, size_bytes: int, *, complete: bool) -> None:
        """One more part of a checkpoint is on disk; with it the checkpoint may have become complete."""
        self._observe.checkpoint_written(generation, size_bytes, complete=complete)

    def frame_stored(self, generation: Generation) -> None:
        """One more frame is complete in the spool."""
        previous_ns, generation.last_frame_time_ns = generation.last_frame_time_ns, time.time_ns()
        generation.first_frame_time_ns = generation.first_frame_time_ns or generation.last_frame_time_ns
        self._observe.frame_stored(generation, previous_ns)
        generation.changed.notify()

    def succeed(self, generation: Generation) -> None:
        """Every frame is in the spool."""
        assert generation.frames.completed_count == generation.frames.frame_count
        self._finish(generation, SUCCEEDED, None)

    def fail(self, generation: Generation, failure: Failure) -> None:
        """It ended with an error; when it was being cancelled anyway, it counts as cancelled."""
        if generation.state == CANCELLING:
            self._finish(generation, CANCELLED, _CANCEL_REQUESTED)
        else:
            self._finish(generation, FAILED, failure)

    def cancelled(self, generation: Generation) -> None:
        """The ranks have stopped as they were asked to."""
        self._finish(generation, CANCELLED, _CANCEL_REQUESTED)

    # ---- inside ----

    def _new_generation(
        self, normalised: generation_pb2.GenerationSpec, terms: Terms, *, request_id: str
    ) -> Generation:
        resolved = generation_pb2.GenerationSpec()
        resolved.CopyFrom(normalised)
        if resolved.seed == 0:
            resolved.seed = random.SystemRandom().randint(1, MAX_SEED)
        generation_id = self._ids.next()
        return Generation(
            generation_id=generation_id,
            request_id=request_id,
            normalised_spec=normalised,
            resolved_spec=resolved,
            frames=self._spool.file(
                generation_id, frame_count=resolved.frame_count, frame_size=frame_size_bytes(resolved)
            ),
            checkpoints=self._checkpoints.folder(generation_id, frame_count=resolved.frame_count),
            create_time_ns=time.time_ns(),
            terms=terms,
        )

    def _queue_moved(self, model: str) -> None:
        """Everyone's place in the queue has changed."""
        self._observe.queue_changed(model, len(self._queue))
        for generation_id in self._queue:
            self.get(generation_id).changed.notify()

    def _finish(self, generation: Generation, state: State, failure: Failure | None) -> None:
        assert state in TERMINAL
        was_in_work = generation.state in IN_WORK
        generation.failure = failure
        generation.end_time_ns = time.time_ns()
        generation.frames.close()
        generation.checkpoints.remove()
        generation.move_to(state, *((failure.reason, failure.message) if failure is not None else ()))
        self._observe.finished(generation)
        if state == FAILED and failure is not None:
            _log.warning("generation %s failed: %s", generation.generation_id, failure.message)
        else:
            _log.info("generation %s: %s", generation.generation_id, FINISHED_REASONS[state])
        if was_in_work:
            self._in_work = None
            self._queue_moved(generation.resolved_spec.model)
