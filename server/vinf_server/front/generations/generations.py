"""The face of the room: admission, the queue, and what happens to a generation until it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from google.rpc import code_pb2

from vinf.v1 import generation_pb2
from vinf_server.front.checkpoints import CheckpointStore
from vinf_server.front.disk import DiskSpace
from vinf_server.front.errors import (
    DiskFullError,
    GenerationNotFoundError,
    RequestIdReusedError,
    ServerDrainingError,
    WrongStateError,
)
from vinf_server.front.frames.spool import Spool
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
    Terms,
)
from vinf_server.front.generations.keeping import DISK_RETRY_S, Keeper
from vinf_server.front.generations.leases import Leases
from vinf_server.front.generations.limits import ClientLimits
from vinf_server.front.generations.making import GenerationMaker
from vinf_server.front.generations.observe import GenerationObserver, finished_reason
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.restoring import Restoring
from vinf_server.front.generations.retention import Retention
from vinf_server.front.generations.store import GenerationStore, StoreError
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.delivery import OVERFLOW, RELEASED

_log = logging.getLogger(__name__)

MAX_IDLE_LOSSES = 3
"""Groups a generation may lose without getting anywhere before it is held to be the cause."""

PREEMPTING_DISTANCE = 2
"""By how much a waiting generation's priority must exceed the running one's to take its place."""
DISK_FULL = "DISK_FULL"
CONSUMER_SLOW = "CONSUMER_SLOW"

RESUME_SHARE = 0.8
"""Of the frames that may be kept; when fewer are, one that waits for its readers goes on. Below 1, so that it does not
stop again after every frame."""

_DEFAULT_TERMS = Terms()
_NO_IMAGES: Mapping[int, bytes] = {}


class GenerationListener(Protocol):
    """Whoever hands generations to the ranks."""

    def generation_queued(self) -> None:
        """Called after a generation joined the queue."""

    def cancel_requested(self, generation: Generation) -> None:
        """Called after a generation in work became CANCELLING."""


class LifeListener(Protocol):
    """Whoever follows generations from their creation to their end."""

    def created(self, generation: Generation) -> None:
        """Called once a new generation outlives the server, by the task that creates it."""

    def ended(self, generation: Generation) -> None:
        """Called after a generation became terminal."""


class Generations:
    """All generations of this server. Runs on the event loop and never blocks it."""

    def __init__(
        self,
        *,
        store: GenerationStore,
        queue: GenerationQueue,
        spool: Spool,
        checkpoints: CheckpointStore,
        disk: DiskSpace,
        retention: Retention,
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
        self.keeper = Keeper(store, spool, disk, retention)
        self._observe = GenerationObserver(metrics, queue_capacity=queue.capacity)
        self._maker = GenerationMaker(spool, checkpoints)
        self._listener: GenerationListener | None = None
        self._in_work: Generation | None = None
        self._restoring = Restoring(store, spool, checkpoints, self._maker, finish=self._end)
        self._unsettled: set[str] = set()
        self.life_listeners: list[LifeListener] = []
        self.is_accepting = True
        """False once a stop has begun: nothing new is admitted, what is there goes on."""

        self.is_draining = False
        """True once streams are to end."""

    # ---- after a restart ----

    async def restore(self) -> None:
        """Take up what an earlier server has left, and remove what belongs to nothing.

        Queued generations are queued again in their order; the one that was running is the first of them. Nothing
        starts before `verify` is done.
        """
        waiting = await self._restoring.take_up()
        for generation in reversed(waiting):
            self._put_back(generation)
        if waiting:
            self._observe.queue_changed(waiting[0].resolved_spec.model, self._queue.count_by_priority)
        for generation in self._restoring.unverified:
            self.leases.add(generation)
            self._observe.suspension_changed(generation)

    async def verify(self) -> None:
        """Find out which frames of unfinished generations are whole, and let the first generation start."""
        await self._restoring.verify()
        if self._listener is not None:
            self._listener.generation_queued()

    def reject_waiting(self, check: Callable[[generation_pb2.GenerationSpec], Failure | None]) -> None:
        """Fail generations that the ranks of now cannot make: they may have waited for other ones.

        Args:
            check: says what is wrong with a specification; None: nothing.
        """
        for generation in self._store.all():
            if generation.state not in (PENDING, SUSPENDED):
                continue
            failure = check(generation.resolved_spec)
            if failure is not None:
                self._queue.remove(generation.generation_id)
                self._finish(generation, FAILED, failure)
                self._queue_moved(generation.resolved_spec.model)

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
        images: Mapping[int, bytes] = _NO_IMAGES,
    ) -> tuple[Generation, bool]:
        """Admit a generation whose every default is filled in, the seed excepted.

        `images` are the pixels of its image conditions, by frame index: they are on disk after `settle`.

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
        generation = self._maker.new(normalised_spec, terms, request_id=request_id)
        generation.images.hold([images[condition.frame_index] for condition in normalised_spec.image_conditions])
        self.keeper.check_room(generation)
        if validate_only:
            generation.generation_id = ""
            return generation, False
        self._queue.put(generation.generation_id, priority=terms.priority, owner=terms.owner)
        self._store.add(generation)
        self.keeper.promised(generation)
        self.leases.add(generation)
        self._unsettled.add(generation.generation_id)
        self._observe.queue_changed(normalised_spec.model, self._queue.count_by_priority)
        _log.info(
            "generation %s is queued, %d frames",
            *(generation.generation_id, normalised_spec.frame_count),
            extra={"request_id": request_id} if request_id else None,
        )
        if self._listener is not None:
            self._listener.generation_queued()
        return generation, False

    def has_request(self, request_id: str, *, owner: str = "") -> bool:
        """Whether a generation of this owner was created with this request id."""
        return bool(request_id) and self._store.find_request(owner, request_id) is not None

    async def settle(self, generation: Generation) -> None:
        """Wait until a generation that was just created outlives the server, or take it back.

        Raises:
            DiskFullError: the database did not take it, or the disk not its images.
        """
        if generation.generation_id not in self._unsettled:
            return
        try:
            await generation.images.store()
            await self._store.flush()
            self._unsettled.discard(generation.generation_id)
            for listener in self.life_listeners:
                listener.created(generation)
        except (StoreError, OSError) as error:
            self._unsettled.discard(generation.generation_id)
            self._withdraw(generation)
            raise DiskFullError(
                f"the server could not store the generation: {error}", retry_s=DISK_RETRY_S, cause=str(error)
            ) from error

    async def until_saved(self) -> None:
        """Wait until what has changed so far outlives the server; where the database refuses it, it happened anyway."""
        try:
            await self._store.flush()
        except StoreError as error:
            _log.warning("what has changed is not on disk: %s", error)

    def check_accepting(self) -> None:
        """Raise `ServerDrainingError` when the server takes nothing new any more."""
        if not self.is_accepting:
            raise ServerDrainingError("the server is shutting down")

    def check_open(self) -> None:
        """Raise `ServerDrainingError` when streams are to end."""
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
        self.end_early(generation, CANCEL_REQUESTED)
        return generation

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

    async def delete(self, generation_id: str) -> None:
        """Forget a generation that has ended, and remove its frames.

        Raises:
            GenerationNotFoundError: there is none, or no longer.
            WrongStateError: it has not ended.
        """
        generation = self.get(generation_id)
        if not generation.is_terminal:
            state = generation_pb2.GenerationState.Name(generation.state).removeprefix("GENERATION_STATE_")
            raise WrongStateError(
                f"generation {generation_id} is {state}; cancel it, and delete it when it has ended",
                generationId=generation_id,
                state=state,
            )
        await self.keeper.forget([generation])

    def release_before(self, generation: Generation, frame_index: int) -> None:
        """Nobody needs the frames before this one; where only so many are kept, they are dropped."""
        most, frames = generation.terms.retention_frame_count, generation.frames
        if not most:
            return
        self._drop_before(generation, frame_index, RELEASED)
        generation.released.notify()
        generation.changed.notify()
        waits_for_readers = generation.state == SUSPENDED and generation.state_reason == CONSUMER_SLOW
        if waits_for_readers and frames.next_missing - frames.first_available <= RESUME_SHARE * most:
            self._resume(generation, "its readers have released frames")

    def queue_position(self, generation: Generation) -> int:
        """Generations in front of one that waits, the running one included."""
        if generation.state != PENDING or not generation.generation_id:
            return 0
        return self._queue.position(generation.generation_id) + (self._in_work is not None)

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

    def drain(self) -> None:
        """Take nothing new and end every stream."""
        self.is_accepting = False
        self.is_draining = True
        before_id = ""
        while page := self._store.page(before_id=before_id, states=(), limit=500):
            for generation in page:
                generation.changed.notify()
            before_id = page[-1].generation_id

    # ---- for the engine ----

    def start_next(self) -> Generation | None:
        """Take the next generation off the queue and call it running.

        None when nobody waits, while frames of an earlier server are looked at, and once the server is shutting down.
        """
        assert self._in_work is None, "one generation at a time"
        if self.is_draining or self._restoring.is_under_way:
            return None
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

    async def tidy(self) -> None:
        """Forget what has expired, and let generations go on that waited for room on the disk."""
        with suppress(StoreError):
            await self._store.flush()  # what a full disk refused is tried again
        await self.keeper.look()
        self._observe.spool_changed(self.keeper.usage())
        for generation in self._store.all():
            is_waiting = generation.state == SUSPENDED and generation.state_reason == DISK_FULL
            if is_waiting and not self._restoring.is_under_way and self.keeper.room_bytes() >= 0:
                self._resume(generation, "there is room on the disk again")

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

    # ---- inside ----

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

    def _withdraw(self, generation: Generation) -> None:
        """Take back what no client was told about."""
        if generation.is_forgotten:
            return
        self._queue.remove(generation.generation_id)
        if generation.state == PENDING:
            generation.is_forgotten = True
            generation.images.remove()
            self._store.forget(generation)
            self._queue_moved(generation.resolved_spec.model)
        else:
            self.cancel(generation.generation_id)

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
