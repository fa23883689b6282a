"""Checkpoints on their way from the ranks to disk, and back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.checkpoints import Part, PartError
from vinf_server.front.generations.generations import Generations

_log = logging.getLogger(__name__)


class CheckpointIntake:
    """Stores the parts that ranks send. A checkpoint that cannot be stored costs safety, never the generation."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    async def store(
        self, requests: AsyncIterator[link_pb2.SendCheckpointRequest], *, is_wanted: Callable[[], bool]
    ) -> bool:
        """Store one part; True when all of it is on disk.

        Args:
            requests: the stream as the contract describes it; a part whose stream merely ends is dropped.
            is_wanted: whether the group that sends it is still the one that works.

        Raises:
            PartError: the part does not fit the generation, or the stream does not follow the contract.
        """
        first = await anext(requests, link_pb2.SendCheckpointRequest())
        generation = self._generations.in_work(first.part.generation_id)
        if generation is None:
            return False
        sent = first.part
        part = Part(sent.step, sent.start_frame_index, sent.frame_count, sent.latent_frame_count)
        checkpoints = generation.checkpoints
        try:
            unfinished = await checkpoints.begin(part)
            try:
                async for request in requests:
                    if request.WhichOneof("payload") == "data":
                        await checkpoints.write(unfinished, request.data)
                        continue
                    if request.complete.data_size_bytes != unfinished.size:
                        raise PartError(f"{unfinished.size} bytes came, {request.complete.data_size_bytes} were sent")
                    if not is_wanted() or self._generations.in_work(generation.generation_id) is None:
                        return False
                    complete = await checkpoints.keep(unfinished)
                    self._generations.checkpoint_written(generation, unfinished.size, complete=complete)
                    return True
                return False
            finally:
                checkpoints.discard(unfinished)
        except OSError as error:
            _log.error("generation %s: cannot store a checkpoint: %s", generation.generation_id, error)
            return False

    async def read(self, request: link_pb2.FetchCheckpointRequest) -> AsyncIterator[bytes]:
        """Hand out records in slices.

        Raises:
            LookupError: there is no such checkpoint.
        """
        generation = self._generations.in_work(request.generation_id)
        if generation is None:
            raise LookupError(f"generation {request.generation_id} is not in work")
        async for piece in generation.checkpoints.read(request.step, request.start_frame_index, request.frame_count):
            yield piece
