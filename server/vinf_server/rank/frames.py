"""Carries a rank's decoded frames to the front, beside the engine's own thread."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator

import grpc
import numpy as np

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.events import Pixels
from vinf_server.rank.link import Link

logger = logging.getLogger(__name__)

QUEUED_FRAMES = 16
"""Frames that may wait for the network before the engine waits too: bounds memory, hides short stalls."""

SLICE_BYTES = 1 << 20
"""Largest piece of a frame in one message: below gRPC's default limit, and the front's loop is never held for long."""

DELIVERY_TIMEOUT = 110.0
"""Seconds to wait for a full queue or the front's answer; just below the control group's own timeout."""


class DeliveryError(RuntimeError):
    """The front did not take the frames; the rank must exit."""


class FrameSender:
    """The engine's `FrameSink` for one generation."""

    def __init__(self, link: Link, rank: int, generation_id: str) -> None:
        self._link = link
        self._rank = rank
        self._generation_id = generation_id
        self._queue: queue.Queue[tuple[int, Pixels] | None] = queue.Queue(QUEUED_FRAMES)
        self._abandoned = threading.Event()
        self._sent_frames = 0
        self._stored_frames = -1
        self._error: grpc.RpcError | None = None
        self._thread = threading.Thread(target=self._run, name="vinf-frames", daemon=True)
        self._thread.start()

    def send(self, frame_index: int, pixels: Pixels) -> None:
        """Queue one frame, ``[H, W, 3]`` uint8; waits while the queue is full."""
        self._put((frame_index, pixels))
        self._sent_frames += 1

    def close(self) -> None:
        """Return when the front has answered for every frame.

        It answers for fewer frames than were sent when it has given the generation up meanwhile; that is no error.

        Raises:
            DeliveryError: no answer came.
        """
        self._put(None)
        self._thread.join(DELIVERY_TIMEOUT)
        if self._stored_frames < 0:
            detail = self._error.details() if isinstance(self._error, grpc.Call) else "no answer in time"
            raise DeliveryError(f"the front did not answer for {self._sent_frames} frames: {detail}")
        if self._stored_frames < self._sent_frames:
            numbers = (self._stored_frames, self._sent_frames)
            logger.warning("generation %s: %d of %d frames were wanted", self._generation_id, *numbers)

    def abandon(self) -> None:
        """Send nothing more; the front drops the stream of a generation that has ended."""
        self._abandoned.set()
        self._thread.join(timeout=5)

    def _put(self, item: tuple[int, Pixels] | None) -> None:
        try:
            self._queue.put(item, timeout=DELIVERY_TIMEOUT)
        except queue.Full:
            raise DeliveryError(f"the front took no frame for {DELIVERY_TIMEOUT:.0f} s") from self._error

    def _run(self) -> None:
        try:
            answer = self._link.stub.SendFrames(self._messages(), metadata=self._link.metadata)
            self._stored_frames = answer.stored_frame_count
        except grpc.RpcError as error:
            self._error = error
            self._drain()

    def _drain(self) -> None:
        """Keep the engine from waiting for a queue nobody empties; `close` reports the error."""
        while not self._abandoned.is_set():
            try:
                if self._queue.get(timeout=0.1) is None:
                    return
            except queue.Empty:
                continue

    def _messages(self) -> Iterator[pb.SendFramesRequest]:
        count = 0
        while not self._abandoned.is_set():
            try:
                item = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                yield self._message(complete=pb.SendComplete(frame_count=count))
                return
            index, pixels = item
            whole = np.ascontiguousarray(pixels).data.cast("B")
            for offset in range(0, len(whole), SLICE_BYTES):
                piece = pb.FrameData(
                    frame_index=index,
                    data_offset_bytes=offset,
                    data_size_bytes=len(whole),
                    data=bytes(whole[offset : offset + SLICE_BYTES]),
                )
                yield self._message(frame=piece)
            count += 1

    def _message(
        self, *, frame: pb.FrameData | None = None, complete: pb.SendComplete | None = None
    ) -> pb.SendFramesRequest:
        return pb.SendFramesRequest(generation_id=self._generation_id, rank=self._rank, frame=frame, complete=complete)
