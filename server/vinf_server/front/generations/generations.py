"""The face of the room: what clients ask of generations, their admission, and what is left of them after a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from vinf.v1 import generation_pb2
from vinf_server.front.checkpoints import CheckpointStore
from vinf_server.front.disk import DiskSpace
from vinf_server.front.errors import (
    DiskFullError,
    RequestIdReusedError,
    ServerDrainingError,
    WrongStateError,
)
from vinf_server.front.frames.spool import Spool
from vinf_server.front.generations.generation import (
    CANCEL_REQUESTED,
    FAILED,
    PENDING,
    SUSPENDED,
    Failure,
    Generation,
    State,
    Terms,
)
from vinf_server.front.generations.keeping import DISK_RETRY_S, Keeper
from vinf_server.front.generations.leases import Leases
from vinf_server.front.generations.limits import ClientLimits
from vinf_server.front.generations.making import GenerationMaker
from vinf_server.front.generations.observe import GenerationObserver
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.restoring import Restoring
from vinf_server.front.generations.retention import Retention
from vinf_server.front.generations.store import GenerationStore, StoreError
from vinf_server.front.generations.work import DISK_FULL, Work
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.delivery import RELEASED

_log = logging.getLogger(__name__)

CONSUMER_SLOW = "CONSUMER_SLOW"

RESUME_SHARE = 0.8
"""Of the frames that may be kept; when fewer are, one that waits for its readers goes on. Below 1, so that it does not
stop again after every frame."""

_DEFAULT_TERMS = Terms()
_NO_IMAGES: Mapping[int, bytes] = {}


class Generations(Work):
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
        super().__init__(
            store=store,
            queue=queue,
            keeper=Keeper(store, spool, disk, retention),
            observe=GenerationObserver(metrics, queue_capacity=queue.capacity),
        )
        self.limits = limits or ClientLimits()
        self.leases = Leases(self.end_early)
        self._maker = GenerationMaker(spool, checkpoints)
        self._restoring = Restoring(store, spool, checkpoints, self._maker, finish=self._end)
        self._unsettled: dict[str, asyncio.Task[None] | None] = {}
        """Generations that do not outlive the server yet, and what is done about it once somebody waits for it."""

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
        self._unsettled[generation.generation_id] = None
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
        generation_id = generation.generation_id
        if generation_id not in self._unsettled:
            return
        settling = self._unsettled[generation_id]
        if settling is None:
            settling = self._unsettled[generation_id] = asyncio.create_task(self._settle(generation))
        # A client that goes away ends its call, neither the write nor what follows from it.
        await asyncio.shield(settling)

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

    def drain(self) -> None:
        """Take nothing new and end every stream."""
        self.is_accepting = False
        self.is_draining = True
        before_id = ""
        while page := self._store.page(before_id=before_id, states=(), limit=500):
            for generation in page:
                generation.changed.notify()
            before_id = page[-1].generation_id

    # ---- in the course of time ----

    def start_next(self) -> Generation | None:
        """See `Work.start_next`; None also while frames of an earlier server are looked at, and once streams end."""
        if self.is_draining or self._restoring.is_under_way:
            return None
        return super().start_next()

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

    # ---- inside ----

    async def _settle(self, generation: Generation) -> None:
        """Put what is held of it on disk: images first, because a row says that they are there."""
        try:
            if generation.images.missing_bytes:
                await generation.images.store()
                if not generation.is_forgotten:
                    self._store.save(generation)
            await self._store.flush()
        except (StoreError, OSError) as error:
            self._withdraw(generation)
            raise DiskFullError(
                f"the server could not store the generation: {error}", retry_s=DISK_RETRY_S, cause=str(error)
            ) from error
        finally:
            del self._unsettled[generation.generation_id]
        for listener in self.life_listeners:
            listener.created(generation)

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
