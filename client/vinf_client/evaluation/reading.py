"""Videos as files: what `vinf generate` writes, and what others wrote in a format that PyAV knows."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vinf_client._errors import InvalidRequestError
from vinf_client.evaluation.arrays import Frame

ALLOWED = "a video file such as .mp4, .webm or .gif, a .npy file of uint8 [F, H, W, 3], or a folder of PNG files"
"""In a folder, ``frame_*.png`` are the frames, as `vinf generate` writes them; all PNG files where there are none."""


_DRAWN_TEXT = ("tty", "bin", "xbin", "adf", "idf")
"""What FFmpeg would draw any text file as."""


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video that can be read, and what lies beside it about its clips."""

    path: Path
    boundaries: tuple[int, ...] = ()
    """First frame of each clip but the first, where they are known."""
    cuts: tuple[int, ...] = ()
    """First frame of each scene but the first, where they are known."""

    def frames(self) -> Iterator[Frame]:
        """Decode frame by frame: uint8 ``[H, W, 3]``, RGB.

        Raises:
            InvalidRequestError: the file is no video, or damaged.
        """
        if self.path.is_dir():
            return _pictures(self.path)
        if self.path.suffix.lower() == ".npy":
            return _array(self.path)
        return _encoded(self.path)


def read_video(path: str | Path) -> VideoFile:
    """Find a video, and the specification that `vinf batch` writes beside it, which knows its clips and cuts.

    Raises:
        InvalidRequestError: there is none.
    """
    place = Path(path)
    if not str(path) or not place.exists():
        raise InvalidRequestError(f"{str(path)!r}: there is no such file; allowed: {ALLOWED}")
    boundaries, cuts = _told_beside(place)
    return VideoFile(place, boundaries, cuts)


def starts_of(clips: list[tuple[int, int]]) -> tuple[int, ...]:
    """First frames of clips (start, count) but the first; empty clips have none."""
    return tuple(start for start, count in clips if count and start)


def _told_beside(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    try:
        told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if not isinstance(told, Mapping) or told.get("output") != path.name:
            return (), ()
        segments = told["resolved_spec"]["prompt_segments"]
        cuts = tuple(int(segment["start_frame"]) for segment in segments if segment["cut"])
        clips = [(int(clip["start_frame_index"]), int(clip["frame_count"])) for clip in told.get("clips", ())]
    except (OSError, ValueError, KeyError, TypeError):
        return (), ()  # not of ours
    return starts_of(clips), cuts


def _array(path: Path) -> Iterator[Frame]:
    try:
        video: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidRequestError(f"{path}: it is no NumPy file of numbers") from error
    if not isinstance(video, np.ndarray) or video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3:
        shape = f"{video.dtype} {list(video.shape)}" if isinstance(video, np.ndarray) else "an archive"
        raise InvalidRequestError(f"{path}: {shape} is not uint8 [F, H, W, 3]")
    for frame in video:
        yield np.asarray(frame)


def _pictures(folder: Path) -> Iterator[Frame]:
    from PIL import Image

    names = sorted(folder.glob("frame_[0-9]*.png")) or sorted(folder.glob("*.png"))
    if not names:
        raise InvalidRequestError(f"{folder}: there are no PNG files in this folder; allowed: {ALLOWED}")
    for earlier, later in pairwise(_numbers(names)):
        if later != earlier + 1:
            raise InvalidRequestError(f"{folder}: the picture after number {earlier} is missing, the next is {later}")
    for name in names:
        try:
            with Image.open(name) as picture:
                yield np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InvalidRequestError(f"{name}: it is no picture, or damaged") from error


def _numbers(names: list[Path]) -> list[int]:
    """The frames' numbers, where all have one in `vinf generate`'s manner."""
    numbers = [name.stem.removeprefix("frame_") for name in names if name.stem.startswith("frame_")]
    return [int(number) for number in numbers] if all(number.isdecimal() for number in numbers) else []


def _encoded(path: Path) -> Iterator[Frame]:
    import av  # takes a moment, and only formats with a codec need it

    try:
        with av.open(str(path)) as container:
            if not container.streams.video or container.format.name in _DRAWN_TEXT:
                raise InvalidRequestError(f"{path}: there is no video in it; allowed: {ALLOWED}")
            for picture in container.decode(video=0):
                yield np.asarray(picture.to_ndarray(format="rgb24"), dtype=np.uint8)
    except (av.FFmpegError, OSError) as error:
        raise InvalidRequestError(f"{path}: it is no video, or damaged; allowed: {ALLOWED}") from error
