"""Frames on their way from the ranks into the spool."""

from __future__ import annotations

import errno
import logging
from typing import Protocol

from google.rpc import code_pb2

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.generations.generation import Failure, Generation
from vinf_server.front.generations.generations import Generations

_log = logging.getLogger(__name__)

PATIENCE_S = 1.0
"""For readers to release frames before the ranks are taken from their generation."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class FrameObserver(Protocol):
    """Whoever waits for the last frame."""

    def frame_stored(self, generation: Generation) -> None:
        """Called for every frame that became complete."""

    def spool_failed(self, generation: Generation, failure: Failure) -> None:
        """Called when the disk refuses a frame."""

    def disk_full(self, generation: Generation, message: str) -> None:
        """Called when there is no room for a frame."""

    def readers_slow(self, generation: Generation) -> None:
        """Called when a frame has waited for its readers to release others for too long."""


class FrameIntake:
    """Puts slices into the spool and tells who waits for them."""

    def __init__(self, generations: Generations, observer: FrameObserver) -> None:
        self._generations = generations
        self._observer = observer

    async def store(self, generation_id: str, frame: link_pb2.FrameData) -> bool:
        """Store one slice; False when its generation is not in work (any more), so that nobody wants it."""
        generation = self._generations.in_work(generation_id)
        if generation is None or not await self._wait_for_room(generation, frame.frame_index):
            return False
        try:
            completed = await generation.frames.write(
                frame.frame_index, frame.data_offset_bytes, frame.data, frame_size=frame.data_size_bytes
            )
        except OSError as error:
            _log.error("generation %s: cannot write to the spool: %s", generation_id, error)
            if self._generations.in_work(generation_id) is generation:
                if error.errno in _FULL:
                    self._observer.disk_full(generation, f"a frame could not be stored: {error.strerror}")
                else:
                    self._observer.spool_failed(generation, _spool_failure(error))
            return False
        # The generation may have ended while the disk was busy.
        if completed and self._generations.in_work(generation_id) is generation:
            self._generations.frame_stored(generation)
            self._observer.frame_stored(generation)
        return True

    async def _wait_for_room(self, generation: Generation, frame_index: int) -> bool:
        """Hold a frame back until readers have released others; False when its generation is in work no longer.

        The rank that sends it is held, too, and lets the others wait; soon the generation is suspended instead, so
        that the ranks can do something else.
        """
        while generation.frame_limit <= frame_index < generation.frames.frame_count:
            if not await generation.released.wait(timeout_s=PATIENCE_S):
                self._observer.readers_slow(generation)
            if self._generations.in_work(generation.generation_id) is not generation:
                return False
        return True

    def is_stored(self, generation_id: str, frame_index: int) -> bool:
        """True when the whole frame is on disk."""
        generation = self._generations.find(generation_id)
        return generation is not None and generation.frames.is_complete(frame_index)


def _spool_failure(error: OSError) -> Failure:
    what = error.strerror or str(error)
    return Failure(
        code_pb2.RESOURCE_EXHAUSTED,
        "SPOOL_FAILED",
        f"the server could not store a frame: {what}; frames stored before stay readable",
        {"cause": what},
    )
