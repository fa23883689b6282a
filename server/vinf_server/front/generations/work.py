"""Generations and the ranks: taken off the queue, followed while they are made, set back, and brought to their end."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Protocol

from google.rpc import code_pb2

from vinf.v1 import generation_pb2
from vinf_server.front.errors import GenerationNotFoundError
from vinf_server.front.generations.estimate import Estimate
from vinf_server.front.generations.generation import (
    CANCEL_REQUESTED,
    CANCELLED,
    CANCELLING,
    FAILED,
    IN_WORK,
    PENDING,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    SUSPENDED,
    TERMINAL,
    Failure,
    Generation,
    Stage,
    State,
)
from vinf_server.front.generations.keeping import Keeper
from vinf_server.front.generations.observe import GenerationObserver, finished_reason
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.store import GenerationStore
from vinf_server.front.metrics.delivery import OVERFLOW

_log = logging.getLogger(__name__)

MAX_IDLE_LOSSES = 3
"""Groups a generation may lose without getting anywhere before it is held to be the cause."""

PREEMPTING_DISTANCE = 2
"""By how much a waiting generation's priority must exceed the running one's to take its place."""
DISK_FULL = "DISK_FULL"


class GenerationListener(Protocol):
    """Whoever hands generations to the ranks."""

    def generation_queued(self) -> None:
        """Called after a generation joined the queue."""

    def cancel_requested(self, generation: Generation) -> None:
        """Called after a generation in work became CANCELLING."""


class LifeListener(Protocol):
    """Whoever follows generations from their creation to their end."""

    def created(self, generation: Generation) -> None:
        """Called once a new generation outlives the server, in the context of the call that creates it."""

    def ended(self, generation: Generation) -> None:
        """Called after a generation became terminal."""


class Work:
    """Every change of a generation's state from the queue to its end. Runs on the event loop and never blocks it."""

    def __init__(
        self, *, store: GenerationStore, queue: GenerationQueue, keeper: Keeper, observe: GenerationObserver
    ) -> None:
        self._store = store
        self._queue = queue
        self.keeper = keeper
        self._observe = observe
        self._estimate = Estimate()
        queue.estimate_s = self._estimate.remaining_s
        self._listener: GenerationListener | None = None
        self._in_work: Generation | None = None
        self.life_listeners: list[LifeListener] = []

    def subscribe(self, listener: GenerationListener) -> None:
        """Name the one that hands generations to the ranks."""
        self._listener = listener

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

    def expected_s(self, generation: Generation) -> float | None:
        """Seconds until the ranks are done with the generation in work; None for others, and while it is not known."""
        return self._estimate.expected_s() if generation is self._in_work else None

    @property
    def waiting_count(self) -> int:
        """Generations in the queue."""
        return len(self._queue)

    @property
    def running_count(self) -> int:
        """Generations the ranks work on."""
        return int(self._in_work is not None)

    # ---- for the engine ----

    def start_next(self) -> Generation | None:
        """Take the next generation off the queue and call it running.

        None when nobody waits.
        """
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
        self._store.save(generation)
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
        self.set_back(generation, "WORKER_LOST")
        return True

    def set_back(self, generation: Generation, reason: str) -> None:
        """Let a running generation wait, first of its priority, and go on from its newest checkpoint later.

        Args:
            generation: the one in work.
            reason: `Generation.state_reason` of the contract.
        """
        self._put_back(generation)
        self._stop_work(generation, PENDING, reason)

    def should_preempt(self) -> bool:
        """True when somebody waits whose priority is clearly above that of the generation in work."""
        waiting = self._queue.highest_priority
        return (
            waiting is not None
            and self._in_work is not None
            and self._in_work.state == RUNNING
            and waiting >= self._in_work.terms.priority + PREEMPTING_DISTANCE
        )

    def suspend(self, generation: Generation, reason: str, message: str) -> None:
        """Take a running generation from the ranks until what it waits for has come; frames and checkpoint stay."""
        _log.warning("generation %s is suspended: %s", generation.generation_id, message)
        if reason == DISK_FULL:
            self.keeper.distrust()
        self._stop_work(generation, SUSPENDED, reason, message)

    def in_work(self, generation_id: str) -> Generation | None:
        """The generation the ranks work on, if it has this id."""
        generation = self._in_work
        return generation if generation is not None and generation.generation_id == generation_id else None

    def planned(self, generation: Generation, clip_frame_counts: Sequence[int], texts_at_once: int) -> None:
        """The ranks have split the video into clips, and know how many texts they run at once."""
        generation.clip_frame_counts = tuple(clip_frame_counts)
        generation.texts_at_once = texts_at_once
        self._store.save(generation)
        self._observe.planned(generation)
        generation.changed.notify()

    def progressed(self, generation: Generation, stage: Stage, completed_steps: int, step_seconds: float) -> None:
        """A stage began or a step ended."""
        generation.stage = stage
        generation.completed_steps = completed_steps
        if step_seconds > 0:
            self._estimate.step_ended()
        self._observe.progressed(generation, stage, step_seconds)
        generation.changed.notify()

    def checkpoint_written(self, generation: Generation, size_bytes: int, *, complete: bool) -> None:
        """One more part of a checkpoint is on disk; with it the checkpoint may have become complete."""
        self._observe.checkpoint_written(generation, size_bytes, complete=complete)

    def frame_stored(self, generation: Generation) -> None:
        """One more frame is complete in the spool."""
        previous_ns, generation.last_frame_time_ns = generation.last_frame_time_ns, time.time_ns()
        if not generation.first_frame_time_ns:
            generation.first_frame_time_ns = generation.last_frame_time_ns
            self._store.save(generation)
        self._observe.frame_stored(generation, previous_ns)
        terms = generation.terms
        if terms.drops_oldest:
            first_kept = generation.frames.next_missing - terms.retention_frame_count
            self._drop_before(generation, first_kept, OVERFLOW)
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
        self._end(generation, generation.ending or CANCEL_REQUESTED)

    # ---- ends and pauses ----

    def end_early(self, generation: Generation, failure: Failure) -> None:
        """Ask for the end of a generation, for a reason; one that has ended or is about to stays as it is.

        With the code CANCELLED it ends as cancelled, with any other as failed.
        """
        if generation.state in (PENDING, SUSPENDED):
            self._queue.remove(generation.generation_id)
            self._end(generation, failure)
            self._queue_moved(generation.resolved_spec.model)
        elif generation.state == RUNNING:
            _log.info("generation %s is being cancelled: %s", generation.generation_id, failure.reason)
            generation.ending = failure
            generation.move_to(CANCELLING, failure.reason, failure.message)
            self._observe.cancelling()
            self._store.save(generation)
            if self._listener is not None:
                self._listener.cancel_requested(generation)

    def _put_back(self, generation: Generation) -> None:
        """Queue one that has been admitted before, first of its priority."""
        terms = generation.terms
        self._queue.put_back(generation.generation_id, priority=terms.priority, owner=terms.owner)

    def _drop_before(self, generation: Generation, frame_index: int, reason: str) -> None:
        """Keep the frames before this one no longer."""
        before = generation.frames.first_available
        generation.frames.drop_before(frame_index)
        self._observe.dropped(generation.frames.first_available - before, reason)

    def _resume(self, generation: Generation, message: str) -> None:
        """Queue a suspended generation: what it waited for has come."""
        self._put_back(generation)
        generation.move_to(PENDING, QUEUED, message)
        self._store.save(generation)
        self._observe.suspension_changed(generation)
        self._queue_moved(generation.resolved_spec.model)
        if self._listener is not None:
            self._listener.generation_queued()

    def _stop_work(self, generation: Generation, state: State, reason: str, message: str = "") -> None:
        """The ranks work on it no longer; it goes on later, from its newest checkpoint."""
        generation.checkpoints.drop_incomplete()
        generation.stage = generation_pb2.GENERATION_STAGE_QUEUED
        generation.completed_steps = generation.checkpoints.newest_step
        self._in_work = None
        self._estimate.stopped(completed=False)
        generation.move_to(state, reason, message)
        self._store.save(generation)
        self._observe.interrupted(generation)
        self._queue_moved(generation.resolved_spec.model)

    def _queue_moved(self, model: str) -> None:
        """Everyone's place in the queue has changed."""
        self._observe.queue_changed(model, self._queue.count_by_priority)
        for generation_id in self._queue:
            self.get(generation_id).changed.notify()

    def _end(self, generation: Generation, failure: Failure) -> None:
        """It ends early: as cancelled where that is what the failure says, else as failed."""
        self._finish(generation, CANCELLED if failure.code == code_pb2.CANCELLED else FAILED, failure)

    def _finish(self, generation: Generation, state: State, failure: Failure | None) -> None:
        assert state in TERMINAL
        was_in_work = generation.state in IN_WORK
        generation.failure = failure
        generation.end_time_ns = time.time_ns()
        generation.frames.close()
        generation.previews.clear()
        generation.checkpoints.remove()
        generation.images.remove()
        generation.move_to(state, *((failure.reason, failure.message) if failure is not None else ()))
        self._store.save(generation)
        self._observe.finished(generation, was_in_work=was_in_work)
        for listener in self.life_listeners:
            listener.ended(generation)
        if state == FAILED and failure is not None:
            _log.warning("generation %s failed: %s", generation.generation_id, failure.message)
        else:
            _log.info("generation %s: %s", generation.generation_id, finished_reason(generation))
        if was_in_work:
            self._in_work = None
            self._estimate.stopped(completed=state == SUCCEEDED)
            self._queue_moved(generation.resolved_spec.model)
