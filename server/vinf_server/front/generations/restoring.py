"""What an earlier server has left: which generations go on, and which of their frames are whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from google.rpc import code_pb2

from vinf_server.front.checkpoints import CheckpointStore
from vinf_server.front.frames.spool import Spool
from vinf_server.front.generations.generation import (
    CANCEL_REQUESTED,
    CANCELLING,
    PENDING,
    RUNNING,
    SERVER_RESTARTED,
    Event,
    Failure,
    Generation,
)
from vinf_server.front.generations.leases import JOB_DEADLINE
from vinf_server.front.generations.making import GenerationMaker
from vinf_server.front.generations.store import GenerationStore

_log = logging.getLogger(__name__)


class Restoring:
    """Brings back the generations of an earlier server. Runs on the event loop and never blocks it.

    Args:
        store: holds what is known of them.
        finish: ends a generation that was being cancelled, with why.
    """

    def __init__(
        self,
        store: GenerationStore,
        spool: Spool,
        checkpoints: CheckpointStore,
        maker: GenerationMaker,
        *,
        finish: Callable[[Generation, Failure], None],
    ) -> None:
        self._store = store
        self._spool = spool
        self._checkpoints = checkpoints
        self._maker = maker
        self._finish = finish
        self._unverified: list[Generation] = []

    @property
    def is_under_way(self) -> bool:
        """True while it is not known which frames of unfinished generations are whole."""
        return bool(self._unverified)

    @property
    def unverified(self) -> tuple[Generation, ...]:
        """Unfinished generations whose frames are not known yet."""
        return tuple(self._unverified)

    async def take_up(self) -> list[Generation]:
        """Make the generations again and remove what belongs to none; returns those that wait, the first one first.

        The one that was running comes before those that had begun, and these before all others.
        """
        for saved in self._store.saved:
            self._store.add(self._maker.revived(saved), is_saved=True)
        everyone = tuple(self._store.all())
        known = [generation.generation_id for generation in everyone]
        await asyncio.gather(self._spool.remove_others(known), self._checkpoints.remove_others(known))
        await asyncio.gather(*map(self._take_up, everyone))
        self._unverified = [generation for generation in everyone if not generation.is_terminal]
        waiting = [generation for generation in everyone if generation.state == PENDING]
        waiting.sort(key=lambda generation: (generation.state_reason != SERVER_RESTARTED, not generation.start_time_ns))
        if known:
            _log.info("%d generations were there before, %d of them wait", len(known), len(waiting))
        return waiting

    async def verify(self) -> None:
        """Find out which frames of unfinished generations are whole."""
        for generation in self._unverified:
            try:
                damaged = await generation.frames.recover(verify=True)
            except OSError as error:
                _log.error("generation %s: its frames cannot be read: %s", generation.generation_id, error)
                continue
            finally:
                generation.changed.notify()
            if damaged:
                _log.warning("generation %s: %d damaged frames are made again", generation.generation_id, damaged)
        self._unverified = []

    async def _take_up(self, generation: Generation) -> None:
        """Bring one back to where it can go on from, or leave it as it ended."""
        if generation.state == CANCELLING:
            self._finish(generation, _failure_of(generation.events[-1]))
        if generation.is_terminal:
            generation.checkpoints.remove()
            generation.images.remove()
            try:
                await generation.frames.recover(verify=False)
            except OSError as error:
                _log.error("generation %s: its frames cannot be read: %s", generation.generation_id, error)
            return
        try:
            await generation.checkpoints.recover()
        except OSError as error:
            _log.error("generation %s: its checkpoint cannot be read: %s", generation.generation_id, error)
        generation.completed_steps = generation.checkpoints.newest_step
        if generation.state == RUNNING:
            generation.move_to(PENDING, SERVER_RESTARTED)
            self._store.save(generation)


def _failure_of(cancelling: Event) -> Failure:
    """Why a generation was being cancelled, as its event tells."""
    if cancelling.state_reason == JOB_DEADLINE:
        return Failure(code_pb2.DEADLINE_EXCEEDED, JOB_DEADLINE, cancelling.message)
    reason = cancelling.state_reason or CANCEL_REQUESTED.reason
    return Failure(code_pb2.CANCELLED, reason, cancelling.message or CANCEL_REQUESTED.message)
