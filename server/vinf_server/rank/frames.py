"""Carries a rank's decoded frames to the front, beside the engine's own thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator

import grpc
import numpy as np

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.events import Pixels
from vinf_core.recorder import Lane, Recorder
from vinf_server.rank.link import Link

logger = logging.getLogger(__name__)

QUEUED_FRAMES = 16
"""Frames that may wait for the network before the engine waits too: bounds memory, hides short stalls. The engine
likes room for two slices, of four frames each, so that one can be decoded while another is on its way. Where it asks
for room for more frames at once, twice as many may wait."""

SLICE_BYTES = 1 << 20
"""Largest piece of a frame in one message: below gRPC's default limit, and the front's loop is never held for long."""


class DeliveryError(RuntimeError):
    """The front did not take the frames; the rank must exit."""


class FrameSender:
    """The engine's `FrameSink` for one generation.

    The engine's thread fills the queue, a thread of gRPC's empties it, a thread of ours waits for the front's answer.
    """

    def __init__(self, link: Link, rank: int, generation_id: str, recorder: Recorder | None = None) -> None:
        """Open the stream.

        Args:
            link: to the front.
            rank: this one.
            generation_id: whose frames they are.
            recorder: is told when each frame left.
        """
        self._link = link
        self._recorder = recorder or Recorder()
        self._rank = rank
        self._generation_id = generation_id
        self._changed = threading.Condition()
        self._frames: deque[tuple[int, list[bytes]]] = deque()
        self._finished = False
        self._abandoned = False
        self._answer: pb.SendFramesResponse | None = None
        self._error: grpc.RpcError | None = None
        self._sent_count = 0
        threading.Thread(target=self._run, name="vinf-frames", daemon=True).start()

    def wait_for_room(self, frames: int, timeout: float) -> bool:
        """Wait until that many frames fit into the queue; return whether they do.

        Raises:
            DeliveryError: the front takes no more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._has_room(frames), timeout)
            self._check()
            return self._has_room(frames)

    def send(self, frame_index: int, pixels: Pixels) -> None:
        """Queue a copy of one frame, ``[H, W, 3]`` uint8, cut into the pieces that messages carry."""
        whole = np.ascontiguousarray(pixels).data.cast("B")
        pieces = [bytes(whole[offset : offset + SLICE_BYTES]) for offset in range(0, len(whole), SLICE_BYTES)]
        with self._changed:
            self._frames.append((frame_index, pieces))
            self._sent_count += 1
            self._changed.notify_all()

    def finish(self) -> None:
        """Let the stream end after the frames sent so far."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def wait_for_delivery(self, timeout: float) -> bool:
        """Wait until the front has answered for all frames; return whether it has.

        It answers for fewer frames than were sent when it has given the generation up meanwhile; that is no error.

        Raises:
            DeliveryError: the stream broke.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended, timeout)
            self._check()
            if self._answer is None:
                return False
            if self._answer.stored_frame_count < self._sent_count:
                numbers = (self._answer.stored_frame_count, self._sent_count)
                logger.warning("generation %s: %d of %d frames were wanted", self._generation_id, *numbers)
            return True

    def abandon(self) -> None:
        """Send nothing more; the front drops the stream of a generation that has ended."""
        with self._changed:
            self._abandoned = True
            self._frames.clear()
            self._changed.notify_all()

    def _has_room(self, frames: int) -> bool:
        return max(QUEUED_FRAMES, 2 * frames) - len(self._frames) >= frames

    @property
    def _ended(self) -> bool:
        return self._answer is not None or self._error is not None

    def _check(self) -> None:
        if self._error is not None:
            detail = self._error.details() if isinstance(self._error, grpc.Call) else str(self._error)
            raise DeliveryError(f"the front did not take the frames: {detail}") from self._error

    def _run(self) -> None:
        answer, error = None, None
        try:
            answer = self._link.stub.SendFrames(self._messages(), metadata=self._link.metadata)
        except grpc.RpcError as problem:
            error = problem
        with self._changed:
            self._answer, self._error = answer, error
            self._changed.notify_all()

    def _messages(self) -> Iterator[pb.SendFramesRequest]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frames or self._finished or self._abandoned or self._ended)
                if self._abandoned or self._ended:
                    return
                if not self._frames:
                    complete = pb.SendComplete(frame_count=self._sent_count)
                    break
                index, pieces = self._frames.popleft()
                self._changed.notify_all()
            size, begin = sum(map(len, pieces)), time.perf_counter()
            for number, piece in enumerate(pieces):
                frame = pb.FrameData(
                    frame_index=index,
                    data_offset_bytes=number * SLICE_BYTES,
                    data_size_bytes=size,
                    data=piece,
                )
                yield self._message(frame=frame)
            # gRPC has asked for more: the last piece is on its way.
            self._recorder.add_host(Lane.DELIVER, "send", begin, frames=range(index, index + 1))
        yield self._message(complete=complete)

    def _message(
        self, *, frame: pb.FrameData | None = None, complete: pb.SendComplete | None = None
    ) -> pb.SendFramesRequest:
        return pb.SendFramesRequest(generation_id=self._generation_id, rank=self._rank, frame=frame, complete=complete)
