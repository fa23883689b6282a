"""How frames are turned into bytes: what a reader asks for, and what a stream says it brings."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from vinf.v1 import frame_pb2
from vinf_client._convert import frame_rate
from vinf_client._errors import InvalidRequestError, ProtocolError, Violation

_PIXEL_FORMATS = {
    "rgb24": frame_pb2.PIXEL_FORMAT_RGB24,
    "rgba8": frame_pb2.PIXEL_FORMAT_RGBA8,
    "bgra8": frame_pb2.PIXEL_FORMAT_BGRA8,
    "nv12": frame_pb2.PIXEL_FORMAT_NV12,
}
_ENCODINGS = {"jpeg": frame_pb2.FRAME_ENCODING_JPEG, "png": frame_pb2.FRAME_ENCODING_PNG}
_RAW_NAMES: dict[int, str] = {number: name for name, number in _PIXEL_FORMATS.items()}
_ENCODED_NAMES: dict[int, str] = {number: name for name, number in _ENCODINGS.items()}
_RAW = (frame_pb2.FRAME_ENCODING_RAW, frame_pb2.FRAME_ENCODING_UNSPECIFIED)

CHANNELS = {"rgb24": 3, "rgba8": 4, "bgra8": 4}
"""Of the formats whose pixels lie together."""

NAMES = (*_PIXEL_FORMATS, *_ENCODINGS)


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """How a reader wants its frames; what is left out is the server's default.

    >>> FrameFormat("bgra8", row_alignment_bytes=256, bottom_up=True).name
    'bgra8'
    >>> FrameFormat("jpeg", jpeg_quality=80).jpeg_quality
    80
    """

    name: str = "rgb24"  # "rgb24", "rgba8", "bgra8", "nv12", "jpeg" or "png"
    row_alignment_bytes: int = 0  # every row of a raw frame begins at a multiple of this, a power of two
    bottom_up: bool = False  # whether the bottom row comes first, as textures in OpenGL; raw frames only
    jpeg_quality: int = 0  # from 1 to 100


FormatLike: TypeAlias = FrameFormat | str | None


def write_format(message: frame_pb2.OutputFormat, wanted: FormatLike) -> None:
    """Write what the caller wants; nothing for None. The server judges how it fits the video.

    Raises:
        InvalidRequestError: it is no format.
    """
    if wanted is None:
        return
    asked = FrameFormat(wanted) if isinstance(wanted, str) else wanted
    if not isinstance(asked, FrameFormat) or asked.name not in NAMES:
        shown = asked.name if isinstance(asked, FrameFormat) else asked
        raise InvalidRequestError.of([Violation("format", f"{shown!r} is not allowed; allowed: {', '.join(NAMES)}")])
    if asked.name in _ENCODINGS:
        message.encoding = _ENCODINGS[asked.name]
    else:
        message.pixel_format = _PIXEL_FORMATS[asked.name]
    if asked.bottom_up:
        message.row_order = frame_pb2.ROW_ORDER_BOTTOM_UP
    try:
        message.row_alignment_bytes = asked.row_alignment_bytes
        message.jpeg_quality = asked.jpeg_quality
    except (TypeError, ValueError) as error:
        raise InvalidRequestError.of([Violation("format", str(error))]) from error


@dataclass(frozen=True, slots=True)
class Plane:
    """Where one plane of a raw frame lies in its bytes; sizes in bytes."""

    offset: int
    stride: int
    row_bytes: int
    row_count: int


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """What every frame of a stream looks like."""

    name: str
    width: int
    height: int
    frame_rate: Fraction
    frame_count: int
    frame_size_bytes: int  # 0: frames differ in size
    bottom_up: bool
    planes: tuple[Plane, ...]  # none of jpeg and png
    revision: int

    @classmethod
    def read(cls, header: frame_pb2.VideoFormat) -> "VideoFormat":
        """Read a header.

        Raises:
            ProtocolError: this client cannot read such frames, or the header makes no sense.
        """
        is_raw = header.encoding in _RAW
        name = _RAW_NAMES.get(header.pixel_format) if is_raw else _ENCODED_NAMES.get(header.encoding)
        if name is None:
            kind = f"pixel format {header.pixel_format}" if is_raw else f"encoding {header.encoding}"
            raise ProtocolError(f"the server sends {kind}, which this client cannot read")
        planes = tuple(
            Plane(plane.offset_bytes, plane.stride_bytes, plane.row_bytes, plane.row_count) for plane in header.planes
        )
        dense = _dense_planes(name, header.width, header.height)
        found = cls(
            name=name,
            width=header.width,
            height=header.height,
            frame_rate=frame_rate(header.frame_rate),
            frame_count=header.frame_count,
            frame_size_bytes=header.frame_size_bytes,
            bottom_up=header.row_order == frame_pb2.ROW_ORDER_BOTTOM_UP,
            planes=planes or dense,
            revision=header.format_revision,
        )
        if header.width < 1 or header.height < 1 or not found._fits(dense):
            raise ProtocolError(
                f"the server announces frames of {header.frame_size_bytes} bytes for {header.width}x{header.height}"
            )
        return found

    def _fits(self, dense: Sequence[Plane]) -> bool:
        """Whether the planes are those of the format, padded perhaps, and lie within a frame's bytes."""
        if len(self.planes) != len(dense) or any(plane.offset < 0 for plane in self.planes):
            return False
        for plane, least in zip(self.planes, dense, strict=True):
            if (plane.row_bytes, plane.row_count) != (least.row_bytes, least.row_count):
                return False
            last = plane.offset + plane.stride * (plane.row_count - 1) + plane.row_bytes
            if plane.stride < plane.row_bytes or last > self.frame_size_bytes:
                return False
        size = sum(plane.stride * plane.row_count for plane in self.planes)
        return not self.planes or self.frame_size_bytes == size


def _dense_planes(name: str, width: int, height: int) -> tuple[Plane, ...]:
    if name in CHANNELS:
        row = width * CHANNELS[name]
        return (Plane(0, row, row, height),)
    if name == "nv12":
        return Plane(0, width, width, height), Plane(width * height, width, width, height // 2)
    return ()
