"""Carries a rank's checkpoints to the front and back, beside the engine's own thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import grpc

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.diffusion.checkpoint import Checkpoint, from_records, to_records
from vinf_core.errors import CheckpointError
from vinf_server.rank.frames import SLICE_BYTES, DeliveryError
from vinf_server.rank.link import Link

logger = logging.getLogger(__name__)

LENGTH_BYTES = 4
"""Size of the length in front of every record."""

FETCH_SECONDS = 60.0
"""Longest a rank waits for its frames, which come from a disk of this machine; the other ranks wait meanwhile."""


class LinkCheckpoints:
    """The engine's `CheckpointStore` for one generation, at the front.

    One checkpoint at a time is on its way, written and sent by a thread of its own: the engine takes none while one is
    under way, and a slow disk makes checkpoints rare instead of steps slow.
    """

    def __init__(
        self, link: Link, rank: int, generation_id: str, *, on_fetched: Callable[[], None] = lambda: None
    ) -> None:
        """Make the store.

        Args:
            link: to the front.
            rank: this one.
            generation_id: whose checkpoints.
            on_fetched: called for every piece that `fetch` gets, so that a slow disk looks like no hanging rank.
        """
        self._link = link
        self._rank = rank
        self._generation_id = generation_id
        self._on_fetched = on_fetched
        self._idle = threading.Event()
        self._idle.set()
        self._error: grpc.RpcError | None = None
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """CPU seconds that writing and sending took so far, of the threads that do it."""
        return self._seconds

    @property
    def has_room(self) -> bool:
        """Whether nothing is under way."""
        return self._idle.is_set()

    def save(self, checkpoint: Checkpoint) -> None:
        """Send a checkpoint off; nothing when it has no frames. There must be room."""
        if checkpoint.frame_count:
            self._idle.clear()
            self._error = None
            threading.Thread(target=self._send, args=(checkpoint,), name="vinf-checkpoint", daemon=True).start()

    def wait_until_stored(self, timeout: float) -> bool:
        """Wait until the front has answered for what was sent; return whether it has.

        The front may have refused it: its disk is full, or the generation was given up. The work goes on all the same,
        less safely.

        Raises:
            DeliveryError: the stream broke.
        """
        answered = self._idle.wait(timeout)
        if self._error is not None:
            raise DeliveryError(f"the front did not take a checkpoint: {_detail(self._error)}") from self._error
        return answered

    def fetch(self, completed_steps: int, frames: range) -> Checkpoint:
        """Get consecutive frames back.

        Raises:
            CheckpointError: they are damaged, or the front has no such checkpoint.
        """
        request = pb.FetchCheckpointRequest(
            generation_id=self._generation_id,
            step=completed_steps,
            start_frame_index=frames.start,
            frame_count=len(frames),
        )
        try:
            answers = self._link.stub.FetchCheckpoint(request, metadata=self._link.metadata, timeout=FETCH_SECONDS)
            pieces = []
            for answer in answers:
                pieces.append(answer.data)
                self._on_fetched()
            data = b"".join(pieces)
        except grpc.RpcError as error:
            raise CheckpointError(f"the front does not hand out step {completed_steps}: {_detail(error)}") from error
        return from_records(_split(data), completed_steps=completed_steps, frames=frames)

    def _send(self, checkpoint: Checkpoint) -> None:
        try:
            answer = self._link.stub.SendCheckpoint(
                self._timed(self._messages(checkpoint)), metadata=self._link.metadata
            )
            if not answer.stored:
                numbers = (self._generation_id, checkpoint.completed_steps)
                logger.warning("generation %s: the checkpoint of step %d was not stored", *numbers)
        except grpc.RpcError as error:
            # While steps are under way, the streams of orders and beats tell that the front is gone.
            logger.warning("generation %s: no checkpoint: %s", self._generation_id, _detail(error))
            self._error = error
        finally:
            self._idle.set()

    def _timed(self, messages: Iterable[pb.SendCheckpointRequest]) -> Iterator[pb.SendCheckpointRequest]:
        """Count what the thread that draws the messages, one of gRPC's, spends on making and sending them."""
        mark = time.thread_time()
        for message in messages:
            yield message
            now = time.thread_time()
            self._seconds += now - mark
            mark = now

    def _messages(self, checkpoint: Checkpoint) -> Iterator[pb.SendCheckpointRequest]:
        part = pb.CheckpointPart(
            generation_id=self._generation_id,
            rank=self._rank,
            step=checkpoint.completed_steps,
            start_frame_index=checkpoint.start_frame,
            frame_count=checkpoint.frame_count,
            latent_frame_count=checkpoint.video_frames,
        )
        yield pb.SendCheckpointRequest(part=part)
        size = 0
        for piece in _slices(to_records(checkpoint)):
            yield pb.SendCheckpointRequest(data=piece)
            size += len(piece)
        yield pb.SendCheckpointRequest(complete=pb.CheckpointComplete(data_size_bytes=size))


def _slices(records: Iterable[bytes]) -> Iterator[bytes]:
    """Put lengths in front of records and cut the whole into slices."""
    buffer = bytearray()
    for record in records:
        buffer += len(record).to_bytes(LENGTH_BYTES, "little") + record
        while len(buffer) >= SLICE_BYTES:
            yield bytes(buffer[:SLICE_BYTES])
            del buffer[:SLICE_BYTES]
    if buffer:
        yield bytes(buffer)


def _split(data: bytes) -> Iterator[bytes]:
    """Undo `_slices`; a record that was cut off comes short."""
    position = 0
    while position < len(data):
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(data[position:start], "little")
        yield data[start:position]


def _detail(error: grpc.RpcError) -> str:
    return str(error.details() if isinstance(error, grpc.Call) else error)
