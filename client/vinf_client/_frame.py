"""One frame as it arrived, and the forms in which it can be had."""

from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vinf_client._format import CHANNELS, VideoFormat
from vinf_client._pixels import Image, decode_picture, nv12_to_rgb, packed_view, plane_views

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Frame:
    """A frame of a video. Arrays made of it are read-only and, of raw formats, views of the bytes received.

    Attributes:
        index: dense from 0.
        data: its bytes as they arrived: a picture file for "jpeg" and "png", otherwise rows as `layout` describes them.
        layout: format, size and planes.
    """

    __slots__ = ("_decoded", "_generate_time_us", "_presentation_time_us", "data", "index", "layout")

    def __init__(
        self, index: int, data: bytes, layout: VideoFormat, *, presentation_time_us: int = 0, generate_time_us: int = 0
    ) -> None:
        self.index = index
        self.data = data
        self.layout = layout
        self._presentation_time_us = presentation_time_us
        self._generate_time_us = generate_time_us
        self._decoded: Image | None = None

    def __repr__(self) -> str:
        return f"Frame({self.index}, {self.width}x{self.height} {self.format}, {self.presentation_time})"

    @property
    def width(self) -> int:
        """In pixels."""
        return self.layout.width

    @property
    def height(self) -> int:
        """In pixels."""
        return self.layout.height

    @property
    def format(self) -> str:
        """The name of its format, such as "rgb24" or "jpeg"."""
        return self.layout.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of `to_numpy`."""
        return self.height, self.width, CHANNELS.get(self.format, 3)

    @property
    def presentation_time(self) -> timedelta:
        """When it is shown, counted from the first frame."""
        return timedelta(microseconds=self._presentation_time_us)

    @property
    def generate_time(self) -> datetime:
        """When it reached the server, by the server's clock."""
        return _EPOCH + timedelta(microseconds=self._generate_time_us)

    def to_numpy(self) -> Image:
        """Return uint8 ``[H, W, C]``, the top row first.

        "rgb24", "rgba8" and "bgra8" are views of `data` with the channels in that order; "nv12", "jpeg" and "png" are
        decoded to RGB, once.
        """
        if self.format in CHANNELS:
            return packed_view(self.data, self.layout)
        if self._decoded is None:
            decoded = nv12_to_rgb(*self.planes()) if self.format == "nv12" else decode_picture(self.data, self.index)
            decoded.flags.writeable = False
            self._decoded = decoded
        return self._decoded

    def to_rgb(self) -> Image:
        """Return uint8 ``[H, W, 3]``, red, green and blue, whatever the format; a view where it can be one."""
        pixels = self.to_numpy()
        if self.format == "bgra8":
            return pixels[..., 2::-1]
        return pixels[..., :3]

    def planes(self) -> tuple[Image, ...]:
        """Return views of a raw frame's planes ``[rows, bytes of a row]``: luma and chroma of "nv12"; none of files."""
        return plane_views(self.data, self.layout)

    def to_pil(self) -> "PillowImage":
        """Return a Pillow image, RGB; RGBA where the format has alpha."""
        from PIL import Image as Pillow

        pixels = self.to_numpy()
        if self.format == "bgra8":
            pixels = pixels[..., [2, 1, 0, 3]]
        return Pillow.fromarray(np.ascontiguousarray(pixels))

    def to_torch(self) -> Any:
        """Return a tensor of its own, uint8 ``[H, W, C]``; needs torch."""
        # By name: the client stands alone, and only who calls this has torch.
        return import_module("torch").from_numpy(self.to_numpy().copy())

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Let `np.asarray` take it: `to_numpy`."""
        pixels = self.to_numpy()
        if dtype is not None and np.dtype(dtype) != pixels.dtype:
            if copy is False:
                raise ValueError(f"a frame cannot become {np.dtype(dtype)} without a copy")
            return pixels.astype(dtype)
        return pixels.copy() if copy else pixels


Picture: TypeAlias = Frame | Image
"""What writers and contact sheets take: a frame, or RGB pixels ``[H, W, 3]``."""


def rgb_of(picture: Picture) -> Image:
    """Return uint8 ``[H, W, 3]``."""
    return picture.to_rgb() if isinstance(picture, Frame) else picture
