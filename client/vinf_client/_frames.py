"""Frames of a generation, whole and in order, however often the stream that brings them breaks.

Frames are dense from 0 and their bytes never change, so an index is all there is to remember: a broken stream is
opened again at the first frame that was not complete, and so is one that brought a frame whose checksum is wrong. The
caller sees no frame twice, and no gap but where the server says that it keeps frames no longer.
"""

from collections.abc import Callable, Iterator

import google_crc32c
import numpy as np
import numpy.typing as npt

from vinf.v1 import frame_pb2, video_generation_service_pb2
from vinf_client import _convert
from vinf_client._errors import ProtocolError, ServerDrainingError, ServerNotReadyError, TransportError, VinfError
from vinf_client._retry import Attempts, Backoff
from vinf_client._translate import failure_error
from vinf_client._transport import Transport
from vinf_client._types import GenerationState

Image = npt.NDArray[np.uint8]

_DRAINING = "SERVER_DRAINING"


class DamagedFrameError(TransportError):
    """A frame's bytes are not those that the server sent."""

    def __init__(self, index: int, *, got: int, expected: int) -> None:
        """Say which frame.

        Args:
            index: of the frame.
            got: CRC-32C of what arrived.
            expected: CRC-32C of what was sent.
        """
        super().__init__(
            f"frame {index} arrived damaged: its CRC-32C is {got:#010x}, {expected:#x} was sent", code="UNAVAILABLE"
        )


class FrameAssembler:
    """Puts frames together from their slices.

    Args:
        header: what every frame of the stream looks like.
    """

    def __init__(self, header: frame_pb2.VideoFormat) -> None:
        self._shape = (header.height, header.width, 3)
        self._size = header.height * header.width * 3
        self._pixels = np.empty(0, np.uint8)
        self._filled = 0
        self._crc32c = 0
        if header.pixel_format != frame_pb2.PIXEL_FORMAT_RGB24:
            raise ProtocolError(f"the server sends pixel format {header.pixel_format}, which this client cannot read")
        if header.width < 1 or header.height < 1 or header.frame_size_bytes != self._size:
            raise ProtocolError(
                f"the server announces frames of {header.frame_size_bytes} bytes for {header.width}x{header.height}"
            )

    def drop(self) -> None:
        """Forget the slices of a frame whose rest will not come."""
        self._filled = 0

    def add(self, message: frame_pb2.Frame, *, index: int) -> Image | None:
        """Take the next message, a part of frame `index`; return the frame ``[H, W, 3]`` once it is whole.

        Raises:
            ProtocolError: it is no such part.
            DamagedFrameError: the frame is whole, but not as it was sent.
        """
        if message.frame_index != index:
            raise ProtocolError(f"expected frame {index}, the server sent frame {message.frame_index}")
        if message.data_size_bytes != self._size or message.data_offset_bytes != self._filled:
            raise ProtocolError(
                f"frame {index}: a slice at {message.data_offset_bytes} of {message.data_size_bytes} bytes "
                f"where {self._filled} of {self._size} was due"
            )
        data = np.frombuffer(message.data, np.uint8)
        end = self._filled + data.size
        if data.size == 0 or end > self._size:
            raise ProtocolError(f"frame {index}: a slice of {data.size} bytes does not fit")
        if self._filled == 0:
            self._pixels = np.empty(self._size, np.uint8)  # the caller owns it, and may write to it
            self._crc32c = 0
        self._pixels[self._filled : end] = data
        self._crc32c = google_crc32c.extend(self._crc32c, message.data)
        self._filled = end
        if end < self._size:
            return None
        self._filled = 0
        if message.crc32c != self._crc32c:
            raise DamagedFrameError(index, got=self._crc32c, expected=message.crc32c)
        return self._pixels.reshape(self._shape)


def read_frames(
    transport: Transport,
    generation_id: str,
    *,
    start: int,
    backoff: Backoff,
    on_wait: Callable[[VinfError], None] | None = None,
) -> Iterator[Image]:
    """Yield the frames from index `start` to the end, resuming broken streams; `on_wait` hears of each break.

    Closing the iterator closes the stream and leaves the generation alone.

    Raises:
        GenerationFailedError, GenerationCancelledError: there will be no further frame.
        TransportError: the stream broke more often in a row than `backoff` allows.
    """
    transport.connect()
    attempts = Attempts(backoff, sleep=transport.pause, on_failure=on_wait)
    following = start
    while True:
        try:
            for index, frame in _read_stream(transport, generation_id, following, attempts):
                following = index + 1
                yield frame
            return
        except (TransportError, ServerNotReadyError) as error:
            attempts.failed(error)


def _read_stream(
    transport: Transport, generation_id: str, start: int, attempts: Attempts
) -> Iterator[tuple[int, Image]]:
    """Yield frames and their indices until `end`; a stream that stops without it is a transport failure."""
    request = video_generation_service_pb2.StreamFramesRequest(generation_id=generation_id, start_frame_index=start)
    stream = transport.stream(transport.generations.StreamFrames, request)
    assembler: FrameAssembler | None = None
    following = start
    try:
        for message in stream:
            match message.WhichOneof("payload"):
                case "header":
                    assembler = FrameAssembler(message.header)
                case "frame":
                    if assembler is None:
                        raise ProtocolError("the server sent a frame before the header")
                    frame = assembler.add(message.frame, index=following)
                    if frame is not None:
                        attempts.progressed()  # slices alone are none: a frame may be damaged every time
                        following += 1
                        yield following - 1, frame
                case "gap":
                    following = _pass_gap(message.gap, following)
                    if assembler is not None:
                        assembler.drop()
                    attempts.progressed()
                case "keepalive" | "progress":
                    attempts.progressed()
                case "end":
                    _finish(message.end, generation_id, following)
                    return
                case _:
                    pass  # a case newer than this client
    finally:
        stream.cancel()
    raise TransportError(
        f"the vinf server at {transport.server} ended the frames of {generation_id} half-way", code="UNAVAILABLE"
    )


def _pass_gap(gap: video_generation_service_pb2.FrameGap, following: int) -> int:
    """Return the frame that comes after frames that are no longer kept."""
    if gap.first_missing_frame_index != following or gap.next_frame_index <= following:
        raise ProtocolError(
            f"expected frame {following}, the server left out frames from {gap.first_missing_frame_index} "
            f"to {gap.next_frame_index}"
        )
    return gap.next_frame_index


def _finish(end: video_generation_service_pb2.StreamEnd, generation_id: str, following: int) -> None:
    """Return when every frame was delivered; raise what stands in the way otherwise."""
    state = _convert.state(end.state)
    failure = _convert.failure(end.error) if end.HasField("error") else None
    if (failure is not None and failure.reason == _DRAINING) or state in (
        GenerationState.PENDING,
        GenerationState.RUNNING,
        GenerationState.CANCELLING,
    ):
        # Accepted generations outlive a restart of the server: come back for the rest.
        raise ServerDrainingError(
            failure.message if failure is not None else "the server is shutting down",
            code="UNAVAILABLE",
            reason=_DRAINING,
        )
    if failure is not None or state is not GenerationState.SUCCEEDED:
        raise failure_error(failure, state, generation_id)
    if end.next_frame_index != following:
        raise ProtocolError(f"the server ended at frame {end.next_frame_index}, but {following} was due")
