"""Pixels of the spool as the bytes a reader asked for. Runs in threads: numpy and Pillow let others run meanwhile."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from vinf.v1 import frame_pb2
from vinf_server.front.frames.formats import BOTTOM_UP, JPEG, NV12, RAW, RGB24, Format, Plane, is_stored_format

_Bytes = npt.NDArray[np.uint8]
_Numbers = npt.NDArray[np.int32]

_CHANNELS = {frame_pb2.PIXEL_FORMAT_RGBA8: (0, 1, 2), frame_pb2.PIXEL_FORMAT_BGRA8: (2, 1, 0)}
"""Where the first three bytes of a pixel come from."""

_FRACTION_BITS = 20
"""Of a coefficient. What rounding them changes stays below 0.002, so that every value is the nearest to the exact one,
halves rounded up, unless that one lies within 0.002 of a half."""

_RED, _BLUE = 0.2126, 0.0722
"""BT.709's shares of luma; green has the rest."""

_ROWS = 32
"""Converted at a time; even."""

_PNG_LEVEL = 1
"""Of zlib: the fastest; higher ones take several times as long for a few per cent."""


def convert(pixels: bytes, width: int, height: int, output: Format) -> memoryview:
    """Return a frame in another format.

    Args:
        pixels: RGB24 from top to bottom, without padding.
        width: in pixels; even for NV12.
        height: in pixels; even for NV12.
        output: what is wanted.
    """
    if is_stored_format(output, width):
        return memoryview(pixels)
    picture = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    if output.encoding != RAW:
        return _compress(picture, output)
    planes = output.planes(width, height)
    frame = np.zeros(planes[-1].end, np.uint8)
    is_flipped = output.row_order == BOTTOM_UP
    if output.pixel_format == NV12:
        luma, chroma = (_rows(frame, plane, is_flipped=is_flipped) for plane in planes)
        _write_nv12(picture, luma, chroma.reshape(height // 2, width // 2, 2))
    elif output.pixel_format == RGB24:
        _rows(frame, planes[0], is_flipped=is_flipped)[:] = picture.reshape(height, -1)
    else:
        rows = _rows(frame, planes[0], is_flipped=is_flipped).reshape(height, width, 4)
        for position, channel in enumerate(_CHANNELS[output.pixel_format]):
            rows[..., position] = picture[..., channel]
        rows[..., 3] = 255
    return frame.data


def _rows(frame: _Bytes, plane: Plane, *, is_flipped: bool) -> _Bytes:
    """The pixels of a plane, in place, the picture's top row first."""
    rows = frame[plane.offset : plane.end].reshape(plane.row_count, plane.stride)[:, : plane.row_bytes]
    return rows[::-1] if is_flipped else rows


def _write_nv12(picture: _Bytes, luma: _Bytes, chroma: _Bytes) -> None:
    """BT.709, limited range; chroma of the mean colour of two by two pixels, so it sits in their middle."""
    green = 1 - _RED - _BLUE
    half_width = picture.shape[1] // 2
    # A few rows at a time stay in a core's own cache, and numpy's wide intermediates small.
    for top in range(0, picture.shape[0], _ROWS):
        rows = picture[top : top + _ROWS].astype(np.int32)
        _weigh(rows, (_RED, green, _BLUE), 219 / 255, 16, out=luma[top : top + _ROWS])
        four = rows.reshape(-1, 2, half_width, 2, 3).sum(axis=(1, 3), dtype=np.int32)
        quarter = chroma[top // 2 : (top + _ROWS) // 2]
        for position, (share, weights) in enumerate(
            ((_BLUE, (-_RED, -green, 1 - _BLUE)), (_RED, (1 - _RED, -green, -_BLUE)))
        ):
            _weigh(four, weights, 224 / 255 / (2 * (1 - share)) / 4, 128, out=quarter[..., position])


def _weigh(colors: _Numbers, weights: tuple[float, float, float], scale: float, offset: int, *, out: _Bytes) -> None:
    red, green, blue = (round(weight * scale * (1 << _FRACTION_BITS)) for weight in weights)
    total = colors[..., 0] * red
    total += colors[..., 1] * green
    total += colors[..., 2] * blue
    total += (offset << _FRACTION_BITS) + (1 << (_FRACTION_BITS - 1))
    total >>= _FRACTION_BITS
    out[...] = total


def _compress(picture: _Bytes, output: Format) -> memoryview:
    stream = io.BytesIO()
    image = Image.fromarray(picture)
    if output.encoding == JPEG:
        image.save(stream, "JPEG", quality=output.jpeg_quality)
    else:
        image.save(stream, "PNG", compress_level=_PNG_LEVEL)
    return stream.getbuffer()
