"""Generations as objects: new ones, and those that the database remembers."""

from __future__ import annotations

import random
import time

from vinf.v1 import generation_pb2
from vinf_server.front.checkpoints import CheckpointStore
from vinf_server.front.frames.layout import frame_size_bytes
from vinf_server.front.frames.spool import Spool
from vinf_server.front.generations.generation import TERMINAL, Generation, IdSource, Terms
from vinf_server.front.generations.schema import SavedGeneration

MAX_SEED = 2**63 - 1


class GenerationMaker:
    """Gives generations their ids, their seeds, and their places on the disk."""

    def __init__(self, spool: Spool, checkpoints: CheckpointStore) -> None:
        self._spool = spool
        self._checkpoints = checkpoints
        self._ids = IdSource()

    def new(self, normalised: generation_pb2.GenerationSpec, terms: Terms, *, request_id: str) -> Generation:
        """Make one that nobody knows yet; a seed of 0 becomes one of the server's choice."""
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

    def revived(self, saved: SavedGeneration) -> Generation:
        """Make one again as it was saved; later ids sort after its own."""
        spec = _completed(saved.resolved_spec)
        generation_id = saved.generation_id
        self._ids.not_before(generation_id)
        return Generation(
            generation_id=generation_id,
            request_id=saved.request_id,
            normalised_spec=_completed(saved.normalised_spec),
            resolved_spec=spec,
            frames=self._spool.file(generation_id, frame_count=spec.frame_count, frame_size=frame_size_bytes(spec)),
            checkpoints=self._checkpoints.folder(generation_id, frame_count=spec.frame_count),
            create_time_ns=saved.create_time_ns,
            terms=saved.terms,
            state=saved.state,
            state_reason=saved.state_reason,
            events=list(saved.events),
            stage=(
                generation_pb2.GENERATION_STAGE_UNSPECIFIED
                if saved.state in TERMINAL
                else generation_pb2.GENERATION_STAGE_QUEUED
            ),
            completed_steps=saved.completed_steps,
            failure=saved.failure,
            clip_frame_counts=saved.clip_frame_counts,
            texts_at_once=saved.texts_at_once,
            peak_memory_bytes=saved.peak_memory_bytes,
            start_time_ns=saved.start_time_ns,
            first_frame_time_ns=saved.first_frame_time_ns,
            end_time_ns=saved.end_time_ns,
        )


def _completed(spec: generation_pb2.GenerationSpec) -> generation_pb2.GenerationSpec:
    """Fill in what an earlier version did not know, as that one made it: the same request becomes the same today."""
    scope = spec.temporal_scope
    scope.initial_noise = scope.initial_noise or generation_pb2.INITIAL_NOISE_INDEPENDENT
    scope.global_choice = scope.global_choice or generation_pb2.GLOBAL_CHOICE_EVEN
    return spec
