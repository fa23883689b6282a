"""Slices become frames, and no frame leaves that is not what was sent."""

import google_crc32c

from vinf.v1 import frame_pb2
from vinf_client._errors import ProtocolError, TransportError
from vinf_client._format import VideoFormat
from vinf_client._frame import Frame


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
        self.layout = VideoFormat.read(header)
        self._slices: list[bytes] = []
        self._filled = 0
        self._crc32c = 0

    @property
    def filled(self) -> int:
        """Bytes of the frame that is not whole yet."""
        return self._filled

    def drop(self) -> None:
        """Forget the slices of a frame whose rest will not come."""
        self._slices.clear()
        self._filled = self._crc32c = 0

    def add(self, message: frame_pb2.Frame, *, index: int) -> Frame | None:
        """Take the next message, a part of frame `index`; return the frame once it is whole.

        Raises:
            ProtocolError: it is no such part.
            DamagedFrameError: the frame is whole, but not as it was sent.
        """
        if message.frame_index != index:
            raise ProtocolError(f"expected frame {index}, the server sent frame {message.frame_index}")
        size = self.layout.frame_size_bytes or message.data_size_bytes
        if message.data_size_bytes != size or message.data_offset_bytes != self._filled:
            raise ProtocolError(
                f"frame {index}: a slice at {message.data_offset_bytes} of {message.data_size_bytes} bytes "
                f"where {self._filled} of {size} was due"
            )
        data = message.data  # each access is a copy
        if not data or self._filled + len(data) > size:
            raise ProtocolError(f"frame {index}: a slice of {len(data)} bytes does not fit")
        self._slices.append(data)
        self._filled += len(data)
        self._crc32c = google_crc32c.extend(self._crc32c, data)
        if self._filled < size:
            return None
        whole = data if len(self._slices) == 1 else b"".join(self._slices)
        crc32c = self._crc32c
        self.drop()
        if message.crc32c != crc32c:
            raise DamagedFrameError(index, got=crc32c, expected=message.crc32c)
        return Frame(
            index,
            whole,
            self.layout,
            presentation_time_us=message.presentation_time_us,
            generate_time_us=message.generate_time_us,
        )
