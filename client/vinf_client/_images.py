"""Pictures that frames of a video shall look like: what callers may give, and how it becomes a file on the wire."""

import io
import operator
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from vinf.v1 import generation_pb2 as pb
from vinf_client._errors import InvalidRequestError, Violation

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PillowImage

    ImageLike: TypeAlias = bytes | str | os.PathLike[str] | PillowImage | np.ndarray[Any, Any]
else:
    ImageLike: TypeAlias = Any

FIRST_FRAME, LAST_FRAME = 0, -1
_INT64 = 2**63 - 1
_MOST_BYTES = 15 << 20  # of all files together: more would not fit a request, whatever the server takes
_PATH = "spec.image_conditions"
_ALLOWED = "a PNG or JPEG file as bytes or by its path, a PIL image, or an array of uint8 [H, W, 3]"


@dataclass(frozen=True, slots=True)
class ImageCondition:
    """A picture that a frame of the video shall look like, for models that take images.

    >>> ImageCondition(0, "start.png")
    ImageCondition(frame_index=0, image='start.png')
    """

    frame_index: int  # -1: the last frame, however many there are
    image: ImageLike  # a PNG or JPEG file as bytes or by its path, a PIL image, or an array of uint8 [H, W, 3]


def check_images(conditions: Sequence[ImageCondition] | None, limit: int = 0) -> list[Violation]:
    """Find what cannot travel, without reading a file.

    Args:
        conditions: as the caller gave them.
        limit: bytes that the server takes of all files together; 0: nobody knows.
    """
    if conditions is None:
        return []
    if not isinstance(conditions, Sequence) or isinstance(conditions, str | bytes):
        return [Violation(_PATH, f"must be a list of ImageCondition, got {_shown(conditions)}")]
    found, total = [], 0
    for index, condition in enumerate(conditions):
        place = f"{_PATH}[{index}]"
        if not isinstance(condition, ImageCondition):
            found.append(Violation(place, f"must be an ImageCondition, got {_shown(condition)}"))
            continue
        found += _check_frame(f"{place}.frame_index", condition.frame_index)
        size = _size_of(condition.image)
        if isinstance(size, str):
            found.append(Violation(f"{place}.image", size))
        else:
            total += size
    most = limit or _MOST_BYTES
    return found or ([_too_large(total, most)] if total > most else [])


def write_images(spec: pb.GenerationSpec, conditions: Sequence[ImageCondition] | None, *, frame_count: int) -> None:
    """Read the files and put them into a specification.

    Args:
        spec: to write to.
        conditions: checked.
        frame_count: of the video, for the last frame.

    Raises:
        InvalidRequestError: a file cannot be read after all, or they are too large once they are encoded.
    """
    for index, condition in enumerate(conditions or ()):
        frame = operator.index(condition.frame_index)
        try:
            data = encoded(condition.image)
        except Exception as error:  # what Pillow makes of odd pictures is written nowhere
            problem = (error.strerror if isinstance(error, OSError) else "") or str(error)
            violation = Violation(f"{_PATH}[{index}].image", f"cannot be read: {problem}")
            raise InvalidRequestError.of([violation]) from error
        spec.image_conditions.add(frame_index=frame_count - 1 if frame == LAST_FRAME else frame, image=data)
    total = sum(len(condition.image) for condition in spec.image_conditions)
    if total > _MOST_BYTES:
        raise InvalidRequestError.of([_too_large(total, _MOST_BYTES)])


def encoded(image: ImageLike) -> bytes:
    """Return the bytes of a file: the caller's own where it is one already, else of a new PNG.

    A PIL image is turned as its EXIF orientation says: the new file does not say it.

    Raises:
        OSError: a file cannot be read.
        Exception: the pixels make no picture; whatever Pillow raises then.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        with open(image, "rb") as file:
            return file.read(_MOST_BYTES + 1)
    import numpy as np
    from PIL import Image, ImageOps

    if isinstance(image, Image.Image):
        picture = ImageOps.exif_transpose(image)
    else:
        picture = Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _check_frame(path: str, frame: object) -> list[Violation]:
    try:
        number = None if isinstance(frame, bool) else operator.index(frame)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        return [Violation(path, f"must be a whole number, got {_shown(frame)}")]
    if not LAST_FRAME <= number <= _INT64:
        return [Violation(path, f"{number} is not allowed; allowed: at least 0, or -1 for the last frame")]
    return []


def _size_of(image: ImageLike) -> int | str:
    """Bytes of a file, 0 where it is not made yet; or what is wrong with it."""
    if isinstance(image, bytes | bytearray | memoryview):
        return memoryview(image).nbytes
    if isinstance(image, str | os.PathLike):
        try:
            status = os.stat(image)
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else str(error)
            return f"{os.fspath(image) or repr(image)} cannot be read: {problem}"
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no file"
            return f"{os.fspath(image)} is {kind}; allowed: a PNG or JPEG file"
        return status.st_size
    if hasattr(image, "__array_interface__") or hasattr(image, "__array__"):
        return _check_pixels(image)
    return f"{_shown(image)} is not allowed; allowed: {_ALLOWED}"


def _check_pixels(image: Any) -> int | str:
    import numpy as np
    from PIL import Image

    if isinstance(image, Image.Image):
        return 0
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        return f"an array of {array.dtype} {list(array.shape)} is not allowed; allowed: {_ALLOWED}"
    return 0


def _too_large(total: int, most: int) -> Violation:
    return Violation(_PATH, f"the files have {total} bytes; allowed: at most {most} together")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
