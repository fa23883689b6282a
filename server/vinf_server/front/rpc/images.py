"""Pictures that clients send: looked at before anything of them is decoded, then made into pixels of the video's size.

Everything here is bounded: by the sizes below before a byte is decoded, by one picture at a time, and by how many
requests may wait for that. Pillow decodes them, through its decoders for PNG and JPEG alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO

from PIL import ExifTags, Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2
from vinf_server.front.errors import QueueFullError, Violation

MAX_IMAGE_BYTES = 12 << 20
"""Of all files of a request together: the rest of what a message may have is left for its prompts."""

MAX_IMAGE_PIXELS = 1 << 24
"""Of one picture: it takes 70 to 200 MiB for as long as it is decoded and scaled."""

_MAX_WAITING = 16
"""Requests whose pictures wait to be decoded, or are: each holds at most a whole message."""

_RETRY_S = 1.0

_MAX_SCANS = 100
"""Of a progressive JPEG; usual ones have about ten. Each takes as long as a picture, however few bytes it has."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_JPEG_SCAN = b"\xff\xda"
_PNG_BIT_DEPTH = 24
"""Where it stands in the file: the first chunk is always the header."""

_OTHERS = {b"GIF8": "GIF", b"RIFF": "WebP", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
"""Formats that people send, too, by how their files begin."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What an EXIF orientation asks for."""

_ON_THEIR_SIDE = 5
"""From this orientation on width and height change places."""


class ImageError(ValueError):
    """Why a picture is not taken, as a sentence that goes on behind the name of its field."""


@dataclass(frozen=True, slots=True)
class TakenImages:
    """What was found in the pictures of a specification."""

    violations: Sequence[Violation] = ()
    pixels: Mapping[int, bytes] = field(default_factory=dict)
    """RGB24 in the video's size, by frame index; of use only where nothing of the request is wrong."""


class ImageTaker:
    """Takes the pictures out of specifications, one at a time, in a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._room = threading.Semaphore(_MAX_WAITING)

    async def take(self, spec: generation_pb2.GenerationSpec, limits: link_pb2.ModelLimits) -> TakenImages:
        """Take every picture out of a specification, which keeps their digests.

        One with more pictures than the model takes is left to the validator as it is: nothing is looked at.

        Raises:
            QueueFullError: too many requests have pictures to be decoded.
        """
        conditions = spec.image_conditions
        if not 0 < len(conditions) <= limits.max_image_count:
            return TakenImages()
        if not self._room.acquire(blocking=False):
            raise QueueFullError(
                f"the images of {_MAX_WAITING} requests are being looked at already; try again later",
                retry_s=_RETRY_S,
                waitingImageRequestCount=str(_MAX_WAITING),
            )
        work = self._thread.submit(_take, conditions, _video_size(spec, limits))
        # Not when the call ends: until its turn has come, what a client that goes away has sent stays in memory.
        work.add_done_callback(lambda _: self._room.release())
        return await asyncio.shield(asyncio.wrap_future(work))


def check_header(data: bytes) -> Image.Image:
    """Return a picture of which nothing but the header was read.

    Raises:
        ImageError: it is none that is taken.
    """
    if not data:
        raise ImageError("must not be empty")
    if data.startswith(_PNG):
        picture = _opened(PngImageFile, data, "PNG")
    elif data.startswith(_JPEG):
        picture = _opened(JpegImageFile, data, "JPEG")
    else:
        other = next((name for magic, name in _OTHERS.items() if data.startswith(magic)), "something else")
        raise ImageError(f"must be a PNG or JPEG file, got {other}")
    if picture.width * picture.height > MAX_IMAGE_PIXELS:
        raise ImageError(f"must have at most {MAX_IMAGE_PIXELS} pixels, got {picture.width} x {picture.height}")
    if getattr(picture, "is_animated", False):
        raise ImageError(f"must be a still picture, got an animation of {getattr(picture, 'n_frames', 0)} frames")
    if isinstance(picture, PngImageFile) and data[_PNG_BIT_DEPTH] > 8:
        raise ImageError(f"must have at most 8 bits a channel, got {data[_PNG_BIT_DEPTH]}")
    if picture.mode == "CMYK":
        raise ImageError("must be grey, RGB or with a palette, got CMYK")
    if isinstance(picture, JpegImageFile) and (scans := data.count(_JPEG_SCAN)) > _MAX_SCANS:
        raise ImageError(f"must have at most {_MAX_SCANS} scans, got {scans}")
    return picture


def decode(data: bytes, width: int, height: int) -> bytes:
    """Return a picture as RGB24 of a size: turned as its EXIF orientation says, scaled to cover it, cut evenly.

    Transparent parts are laid over black; colour profiles are ignored.

    Raises:
        ImageError: it is none that is taken.
    """
    picture = check_header(data)
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
        mode = "RGBA" if picture.has_transparency_data else "RGB"
        colours = picture if picture.mode == mode else picture.convert(mode)
        size = (height, width) if orientation in _TURNS and orientation >= _ON_THEIR_SIDE else (width, height)
        fitted: Image.Image = ImageOps.fit(colours, size, Image.Resampling.LANCZOS)
        if fitted.mode == "RGBA":
            fitted = Image.alpha_composite(Image.new("RGBA", size, (0, 0, 0, 255)), fitted).convert("RGB")
        if orientation in _TURNS:
            fitted = fitted.transpose(_TURNS[orientation])
    except Exception as error:  # what a decoder makes of hostile bytes is written nowhere
        raise _unreadable(picture.format or "") from error
    return fitted.tobytes()


def _take(conditions: Sequence[generation_pb2.ImageCondition], size: tuple[int, int]) -> TakenImages:
    files = [condition.image for condition in conditions]
    for condition, file in zip(conditions, files, strict=True):
        condition.image_sha256 = hashlib.sha256(file).hexdigest() if file else ""
        condition.image = b""
    total = sum(map(len, files))
    if total > MAX_IMAGE_BYTES:
        problem = f"must have at most {MAX_IMAGE_BYTES} bytes in all files together, got {total}"
        return TakenImages([Violation("spec.image_conditions", problem)])
    violations, pixels = [], {}
    for index, (condition, file) in enumerate(zip(conditions, files, strict=True)):
        try:
            pixels[condition.frame_index] = decode(file, *size)
        except ImageError as error:
            violations.append(Violation(f"spec.image_conditions[{index}].image", str(error)))
    return TakenImages(violations, pixels)


def _video_size(spec: generation_pb2.GenerationSpec, limits: link_pb2.ModelLimits) -> tuple[int, int]:
    """Width and height of the video; where they are wrong, which is told elsewhere, some that are not."""
    width, height = spec.width or limits.default_width, spec.height or limits.default_height
    return (
        min(max(width, limits.min_width), limits.max_width),
        min(max(height, limits.min_height), limits.max_height),
    )


def _opened(kind: type[PngImageFile | JpegImageFile], data: bytes, name: str) -> Image.Image:
    """Read the header; without `Image.open`, which warns of large pictures before anybody can ask for their size."""
    try:
        picture = kind(BytesIO(data))
    except Exception as error:  # as in `decode`
        raise _unreadable(name) from error
    if min(picture.size) < 1:
        raise _unreadable(name)
    return picture


def _unreadable(name: str) -> ImageError:
    return ImageError(f"cannot be read as {name}: it is cut short, damaged or of a rare kind")
