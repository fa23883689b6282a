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
from vinf_server.front.generations.estimate import Estimate
from vinf_server.front.generations.generation import (
    CANCELLED,
    CANCELLING,
    FAILED,
    IN_WORK,
    PENDING,
    RUNNING,
    SUCCEEDED,
    SUSPENDED,
    TERMINAL,
    Failure,
    Generation,
    IdSource,
    Stage,
    State,
    Terms,
)
from vinf_server.front.generations.leases import Leases
from vinf_server.front.generations.limits import ClientLimits
from vinf_server.front.generations.observe import FINISHED_REASONS, GenerationMetrics
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.store import GenerationStore
from vinf_server.front.metrics import Metrics

_log = logging.getLogger(__name__)

MAX_SEED = 2**63 - 1

MAX_IDLE_LOSSES = 3
"""Groups a generation may lose without getting anywhere before it is held to be the cause."""

PREEMPTING_DISTANCE = 2
"""By how much a waiting generation's priority must exceed the running one's to take its place."""

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
        limits: ClientLimits | None = None,
    ) -> None:
        self._store = store
        self._queue = queue
        self.limits = limits or ClientLimits()
        self._estimate = Estimate()
        queue.estimate_s = self._estimate.remaining_s
        self.leases = Leases(self.end_early)
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
        if terms.owner:
            self.limits.check_waiting(self._queue.count_of(terms.owner), retry_s=self._estimate.remaining_s())
        generation = self._new_generation(normalised_spec, terms, request_id=request_id)
        if validate_only:
            generation.generation_id = ""
            return generation, False
        self._queue.put(generation.generation_id, priority=terms.priority, owner=terms.owner)
        self._store.add(generation)
        self.leases.add(generation)
        self._observe.queue_changed(normalised_spec.model, len(self._queue))
        _log.info("generation %s is queued, %d frames", generation.generation_id, normalised_spec.frame_count)
        if self._listener is not None:
            self._listener.generation_queued()
        return generation, False

    def check_accepting(self) -> None:
        """Raise `ServerDrainingError` when the server is shutting down."""
        if self.is_draining:
            raise ServerDrainingError("the server is shutting down")

    def get(self, generation_id: str, *, owner: str | None = None) -> Generation:
        """Find a generation, one of `owner` unless that is None, or raise `GenerationNotFoundError`."""
        generation = self.find(generation_id)
        if generation is None or (owner is not None and generation.terms.owner != owner):
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
        self.end_early(generation, _CANCEL_REQUESTED)
        return generation

    def end_early(self, generation: Generation, failure: Failure) -> None:
        """Ask for the end of a generation, for a reason; one that has ended or is about to stays as it is.

        With the code CANCELLED it ends as cancelled, with any other as failed.
        """
        if generation.state in (PENDING, SUSPENDED):
            self._queue.remove(generation.generation_id)
            self._finish(generation, _end_state(failure), failure)
            self._queue_moved(generation.resolved_spec.model)
        elif generation.state == RUNNING:
            _log.info("generation %s is being cancelled: %s", generation.generation_id, failure.reason)
            generation.ending = failure
            generation.move_to(CANCELLING, failure.reason)
            if self._listener is not None:
                self._listener.cancel_requested(generation)

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
        self._estimate.started(generation)
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
        self._requeue(generation, "WORKER_LOST")
        return True

    def preempted(self, generation: Generation) -> None:
        """The ranks were taken from a running generation; it goes on from its newest checkpoint when its turn comes."""
        self._requeue(generation, "PREEMPTED")

    def should_preempt(self) -> bool:
        """True when somebody waits whose priority is clearly above that of the generation in work."""
        waiting = self._queue.highest_priority
        return (
            waiting is not None
            and self._in_work is not None
            and self._in_work.state == RUNNING
            and waiting >= self._in_work.terms.priority + PREEMPTING_DISTANCE
        )

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
            self.cancelled(generation)
        else:
            self._finish(generation, FAILED, failure)

    def cancelled(self, generation: Generation) -> None:
        """The ranks have stopped as they were asked to."""
        failure = generation.ending or _CANCEL_REQUESTED
        self._finish(generation, _end_state(failure), failure)

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

    def _requeue(self, generation: Generation, reason: str) -> None:
        """Let the generation in work wait, first of its priority."""
        generation.checkpoints.drop_incomplete()
        generation.stage = generation_pb2.GENERATION_STAGE_QUEUED
        generation.completed_steps = generation.checkpoints.newest_step
        self._in_work = None
        self._estimate.stopped(completed=False)
        terms = generation.terms
        self._queue.put_back(generation.generation_id, priority=terms.priority, owner=terms.owner)
        generation.move_to(PENDING, reason)
        self._observe.interrupted(generation)
        self._queue_moved(generation.resolved_spec.model)

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
            self._estimate.stopped(completed=state == SUCCEEDED)
            self._queue_moved(generation.resolved_spec.model)


def _end_state(failure: Failure) -> State:
    return CANCELLED if failure.code == code_pb2.CANCELLED else FAILED
