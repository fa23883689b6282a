"""The formats a reader may ask for: how large a frame is in one, and where its rows lie."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

from vinf.v1 import frame_pb2, generation_pb2
from vinf_server.front.frames.layout import frame_size_bytes

Encoding: TypeAlias = "frame_pb2.FrameEncoding.ValueType"
PixelFormat: TypeAlias = "frame_pb2.PixelFormat.ValueType"
RowOrder: TypeAlias = "frame_pb2.RowOrder.ValueType"

RAW = frame_pb2.FRAME_ENCODING_RAW
JPEG = frame_pb2.FRAME_ENCODING_JPEG
PNG = frame_pb2.FRAME_ENCODING_PNG
RGB24 = frame_pb2.PIXEL_FORMAT_RGB24
NV12 = frame_pb2.PIXEL_FORMAT_NV12
TOP_DOWN = frame_pb2.ROW_ORDER_TOP_DOWN
BOTTOM_UP = frame_pb2.ROW_ORDER_BOTTOM_UP

DEFAULT_JPEG_QUALITY = 90

ENCODING_NAMES = {RAW: "raw", JPEG: "jpeg", PNG: "png"}
"""As labels of metrics."""

PIXEL_FORMAT_NAMES = {
    RGB24: "rgb24",
    frame_pb2.PIXEL_FORMAT_RGBA8: "rgba8",
    frame_pb2.PIXEL_FORMAT_BGRA8: "bgra8",
    NV12: "nv12",
}
"""As labels of metrics."""

_BYTES_PER_PIXEL = {RGB24: 3, frame_pb2.PIXEL_FORMAT_RGBA8: 4, frame_pb2.PIXEL_FORMAT_BGRA8: 4}

# Code points of ITU-T H.273. Pixels are made as sRGB, and no format changes their transfer characteristics.
_BT709_PRIMARIES, _SRGB_TRANSFER = 1, 13
_RGB_MATRIX, _BT709_MATRIX, _BT601_MATRIX = 0, 1, 6


@dataclass(frozen=True, slots=True)
class Plane:
    """Where one plane of a raw frame lies; sizes in bytes."""

    offset: int
    stride: int
    row_bytes: int
    row_count: int

    @property
    def end(self) -> int:
        """Where its last row's padding ends."""
        return self.offset + self.stride * self.row_count


@dataclass(frozen=True, slots=True)
class Format:
    """How frames are turned into bytes, defaults filled in; what an encoding does not use has its default."""

    encoding: Encoding = RAW
    pixel_format: PixelFormat = RGB24
    row_alignment: int = 1
    """Every row of a raw frame begins at a multiple of this many bytes."""

    row_order: RowOrder = TOP_DOWN
    jpeg_quality: int = DEFAULT_JPEG_QUALITY

    def planes(self, width: int, height: int) -> tuple[Plane, ...]:
        """The planes of a raw frame, one after the other; none for JPEG and PNG."""
        if self.encoding != RAW:
            return ()
        if self.pixel_format == NV12:
            luma = self._plane(0, width, height)
            return luma, self._plane(luma.end, width, height // 2)
        return (self._plane(0, width * _BYTES_PER_PIXEL[self.pixel_format], height),)

    def _plane(self, offset: int, row_bytes: int, row_count: int) -> Plane:
        return Plane(offset, row_bytes + -row_bytes % self.row_alignment, row_bytes, row_count)


STORED = Format()
"""What the ranks send and the spool keeps: RGB24 from top to bottom, without padding."""


def is_stored_format(output: Format, width: int) -> bool:
    """True when frames in this format are the spool's bytes as they are."""
    is_padded = width * _BYTES_PER_PIXEL[RGB24] % output.row_alignment != 0
    return (output.encoding, output.pixel_format, output.row_order) == (RAW, RGB24, TOP_DOWN) and not is_padded


def video_format(spec: generation_pb2.GenerationSpec, output: Format = STORED) -> frame_pb2.VideoFormat:
    """The header of a stream of this video in this format."""
    planes = output.planes(spec.width, spec.height)
    header = frame_pb2.VideoFormat(
        width=spec.width,
        height=spec.height,
        frame_rate=spec.frame_rate,
        pixel_format=output.pixel_format,
        frame_size_bytes=planes[-1].end if planes else 0,
        frame_count=spec.frame_count,
        encoding=output.encoding,
        row_order=output.row_order,
        planes=[
            frame_pb2.Plane(
                offset_bytes=plane.offset,
                stride_bytes=plane.stride,
                row_bytes=plane.row_bytes,
                row_count=plane.row_count,
            )
            for plane in planes
        ],
        color=_color(output),
    )
    header.format_revision = _revision(header, output)
    return header


def largest_frame_bytes(spec: generation_pb2.GenerationSpec, output: Format) -> int:
    """What a frame in this format takes at most, roughly where it is compressed."""
    planes = output.planes(spec.width, spec.height)
    return planes[-1].end if planes else frame_size_bytes(spec)


def _color(output: Format) -> frame_pb2.ColorDescription:
    matrix, full_range = _RGB_MATRIX, True
    if output.encoding == JPEG:
        matrix = _BT601_MATRIX
    elif output.pixel_format == NV12:
        matrix, full_range = _BT709_MATRIX, False
    return frame_pb2.ColorDescription(
        primaries=_BT709_PRIMARIES, transfer=_SRGB_TRANSFER, matrix=matrix, full_range=full_range
    )


def _revision(header: frame_pb2.VideoFormat, output: Format) -> int:
    """A number from the format alone, in [1, 2^31 - 1]: no server needs to remember any."""
    quality = output.jpeg_quality if output.encoding == JPEG else 0
    # Not the serialised message: another release of protobuf may order its bytes differently.
    numbers = (
        *(header.width, header.height, header.frame_rate.num, header.frame_rate.den, header.frame_count),
        *(output.encoding, output.pixel_format, output.row_order, quality),
        *(plane.stride_bytes for plane in header.planes),
    )
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:4], "little") % (2**31 - 1) + 1
