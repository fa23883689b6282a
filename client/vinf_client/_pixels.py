"""Bytes of frames as arrays: views where the layout allows it, conversions where it does not."""

import io

import numpy as np
import numpy.typing as npt

from vinf_client._errors import ProtocolError
from vinf_client._format import CHANNELS, Plane, VideoFormat

Image = npt.NDArray[np.uint8]

# BT.709, limited range, in 1/65536: luma by 255/219, chroma by 255/224 times the factors of the matrix.
_LUMA = 76309
_RED_CR = 117489
_GREEN_CB, _GREEN_CR = 13975, 34925
_BLUE_CB = 138438
_HALF = 1 << 15


def packed_view(data: bytes, layout: VideoFormat) -> Image:
    """Return the pixels ``[H, W, C]`` in the order of their format, the top row first, without a copy."""
    channels = CHANNELS[layout.name]
    plane = layout.planes[0]
    view: Image = np.ndarray(
        (layout.height, layout.width, channels),
        np.uint8,
        buffer=data,
        offset=plane.offset,
        strides=(plane.stride, channels, 1),
    )
    return view[::-1] if layout.bottom_up else view


def plane_views(data: bytes, layout: VideoFormat) -> tuple[Image, ...]:
    """Return each plane ``[rows, bytes of a row]``, the top row first, without a copy."""
    return tuple(_plane_view(data, plane, bottom_up=layout.bottom_up) for plane in layout.planes)


def nv12_to_rgb(luma: Image, chroma: Image) -> Image:
    """Convert 8-bit 4:2:0, BT.709, limited range.

    Args:
        luma: ``[H, W]``.
        chroma: ``[H / 2, W]``, Cb and Cr in turn.

    Returns:
        ``[H, W, 3]``, full range.
    """
    height, width = luma.shape
    pairs = chroma.reshape(height // 2, 1, width // 2, 1, 2).astype(np.int32) - 128
    cb, cr = pairs[..., 0], pairs[..., 1]
    # Four pixels share a pair: [H / 2, 2, W / 2, 2] keeps them together without spreading the pairs first.
    light = (luma.reshape(height // 2, 2, width // 2, 2).astype(np.int32) - 16) * _LUMA + _HALF
    rgb = np.empty((*light.shape, 3), np.uint8)
    shifts = (_RED_CR * cr, -_GREEN_CB * cb - _GREEN_CR * cr, _BLUE_CB * cb)
    for channel, shift in enumerate(shifts):
        rgb[..., channel] = np.clip((light + shift) >> 16, 0, 255)
    return rgb.reshape(height, width, 3)


def decode_picture(data: bytes, index: int) -> Image:
    """Decode a JPEG or PNG file to ``[H, W, 3]``.

    Raises:
        ProtocolError: it is none.
    """
    from PIL import Image as PillowImage

    try:
        with PillowImage.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError) as error:
        raise ProtocolError(f"frame {index} is no picture that can be decoded: {error}") from error


def _plane_view(data: bytes, plane: Plane, *, bottom_up: bool) -> Image:
    view: Image = np.ndarray(
        (plane.row_count, plane.row_bytes), np.uint8, buffer=data, offset=plane.offset, strides=(plane.stride, 1)
    )
    return view[::-1] if bottom_up else view
