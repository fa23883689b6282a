"""Synthetic frames, and the forms in which readers may ask for them."""

import io
import zlib
from fractions import Fraction

import numpy as np

from vinf.v1 import frame_pb2, generation_pb2
from vinf_client._pixels import Image

_CHANNELS = {
    frame_pb2.PIXEL_FORMAT_RGB24: (0, 1, 2),
    frame_pb2.PIXEL_FORMAT_RGBA8: (0, 1, 2, 3),
    frame_pb2.PIXEL_FORMAT_BGRA8: (2, 1, 0, 3),
}
_QUALITY = 90


def fake_pixels(index: int, width: int = 64, height: int = 64) -> Image:
    """Return what frame `index` of any generation shows, uint8 ``[H, W, 3]``.

    Every index has a picture of its own, which is smooth, so that JPEG keeps it.

    >>> fake_pixels(5).shape, bool((fake_pixels(5) == fake_pixels(6)).all())
    ((64, 64, 3), False)
    """
    rows, columns = np.mgrid[0:height, 0:width]
    red = np.minimum(2 * columns + index, 255 + 0 * columns) % 256
    green = np.minimum(2 * rows, 255)
    blue = np.full_like(rows, (index * 37 + index // 256 * 11) % 256)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


class Form:
    """One form of the frames of one generation: its header, and each frame's bytes."""

    def __init__(self, spec: generation_pb2.GenerationSpec, wanted: frame_pb2.OutputFormat) -> None:
        self._width, self._height = spec.width, spec.height
        self._encoding = wanted.encoding or frame_pb2.FRAME_ENCODING_RAW
        self._pixel_format = wanted.pixel_format or frame_pb2.PIXEL_FORMAT_RGB24
        self._order = wanted.row_order or frame_pb2.ROW_ORDER_TOP_DOWN
        self._alignment = wanted.row_alignment_bytes or 1
        self._quality = wanted.jpeg_quality or _QUALITY
        self._rate = Fraction(spec.frame_rate.num, spec.frame_rate.den)
        self.header = self._header(spec)

    def data(self, index: int) -> bytes:
        """Return the bytes of a frame."""
        pixels = fake_pixels(index, self._width, self._height)
        if self._encoding != frame_pb2.FRAME_ENCODING_RAW:
            return self._file(pixels)
        planes = _nv12(pixels) if self._pixel_format == frame_pb2.PIXEL_FORMAT_NV12 else (self._packed(pixels),)
        return b"".join(self._rows(plane) for plane in planes)

    def facts(self, index: int) -> frame_pb2.Frame:
        """Return a frame without its bytes."""
        return frame_pb2.Frame(
            frame_index=index,
            presentation_time_us=index * self._rate.denominator * 10**6 // self._rate.numerator,
            format_revision=self.header.format_revision,
        )

    def _header(self, spec: generation_pb2.GenerationSpec) -> frame_pb2.VideoFormat:
        is_raw = self._encoding == frame_pb2.FRAME_ENCODING_RAW
        planes = self._planes() if is_raw else []
        header = frame_pb2.VideoFormat(
            width=spec.width,
            height=spec.height,
            frame_rate=spec.frame_rate,
            frame_count=spec.frame_count,
            pixel_format=self._pixel_format,
            encoding=self._encoding,
            row_order=self._order,
            planes=planes,
            frame_size_bytes=sum(plane.stride_bytes * plane.row_count for plane in planes),
        )
        header.format_revision = zlib.crc32(str(header).encode()) % (2**31 - 1) + 1
        return header

    def _planes(self) -> list[frame_pb2.Plane]:
        if self._pixel_format == frame_pb2.PIXEL_FORMAT_NV12:
            luma = self._plane(0, self._width, self._height)
            return [luma, self._plane(luma.stride_bytes * luma.row_count, self._width, self._height // 2)]
        return [self._plane(0, self._width * len(_CHANNELS[self._pixel_format]), self._height)]

    def _plane(self, offset: int, row_bytes: int, row_count: int) -> frame_pb2.Plane:
        stride = row_bytes + -row_bytes % self._alignment
        return frame_pb2.Plane(offset_bytes=offset, stride_bytes=stride, row_bytes=row_bytes, row_count=row_count)

    def _packed(self, pixels: Image) -> Image:
        opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        order = list(_CHANNELS[self._pixel_format])
        return np.concatenate([pixels, opaque], axis=-1)[..., order].reshape(self._height, -1)

    def _rows(self, plane: Image) -> bytes:
        padded = np.pad(plane, ((0, 0), (0, -plane.shape[1] % self._alignment)))
        return (padded[::-1] if self._order == frame_pb2.ROW_ORDER_BOTTOM_UP else padded).tobytes()

    def _file(self, pixels: Image) -> bytes:
        from PIL import Image as Pillow

        file = io.BytesIO()
        if self._encoding == frame_pb2.FRAME_ENCODING_PNG:
            Pillow.fromarray(pixels).save(file, "PNG")
        else:
            Pillow.fromarray(pixels).save(file, "JPEG", quality=self._quality)
        return file.getvalue()


def preview_jpeg(index: int, width: int, height: int) -> bytes:
    """Return a small picture of a frame."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(fake_pixels(index, width, height)).save(file, "JPEG")
    return file.getvalue()


def _nv12(pixels: Image) -> tuple[Image, Image]:
    """Convert to 4:2:0, BT.709, limited range."""
    red, green, blue = (pixels[..., channel].astype(np.float64) / 255 for channel in range(3))
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    luma = np.round(16 + 219 * light).astype(np.uint8)
    height, width = light.shape

    differences = np.stack([(blue - light) / 1.8556, (red - light) / 1.5748], axis=-1)
    quarters = differences.reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    return luma, np.round(128 + 224 * quarters).reshape(height // 2, width).astype(np.uint8)
