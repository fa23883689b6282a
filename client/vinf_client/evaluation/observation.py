"""One pass over a video: what is kept of every frame and every pair of neighbours; memory does not hold the frames."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from vinf_client.evaluation.arrays import Floats, Frame, Plane, laplacian, luma, shrunk
from vinf_client.evaluation.distances import acceleration, colour_moments, detail, pixel_distance, structure_distance
from vinf_client.evaluation.motion import follow

DISTANCES: Mapping[str, str] = {
    "pixels": "mean absolute difference",
    "structure": "1 − SSIM",
    "compensated": "mean absolute difference once blocks are moved back",
    "detail": "change of the high frequencies",
    "colour": "jump of the colour moments",
    "acceleration": "mean of |next − 2 this + last|",
}
"""Distances between neighbouring frames, and what each is."""

REACHES: Mapping[str, int] = {"acceleration": 1}
"""Distances of a step that also feel a jump so many steps away."""

_THUMBNAIL = 8
"""Cells a side of what a frame is recognised by."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A video in numbers."""

    width: int
    height: int
    luminance: Floats
    """Mean brightness of each frame, ``[F]``, levels of 255."""
    contrast: Floats
    """Standard deviation of the brightness, ``[F]``, levels of 255."""
    saturation: Floats
    """Mean saturation, (max − min) / max of the channels, ``[F]``, 0 to 1."""
    sharpness: Floats
    """Variance of the Laplacian of the brightness, ``[F]``."""
    thumbnails: Floats
    """What a frame looks like from afar, ``[F, D]``, levels of 255."""
    motion: Floats
    """How far the picture moved to the next frame, ``[F − 1]``, pixels."""
    distances: Mapping[str, Floats]
    """By the names of `DISTANCES`: from each frame to the next, ``[F − 1]``."""

    @property
    def frame_count(self) -> int:
        """Frames of the video."""
        return len(self.luminance)


def observe(frames: Iterable[Frame]) -> Observation:
    """Look at every frame of a video once, in order.

    Args:
        frames: uint8 ``[H, W, 3]`` each, all of one size; at least two.

    Raises:
        ValueError: they are something else.
    """
    looks: list[tuple[float, float, float, float]] = []
    thumbnails: list[Floats] = []
    pairs: list[tuple[float, float, float, float, float, float]] = []
    accelerations: list[float] = []
    last: _Seen | None = None
    before_last: Frame | None = None
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or min(frame.shape) < 3:
            raise ValueError(f"frame {index}: {frame.dtype} {list(frame.shape)} is not uint8 [H, W, 3]")
        seen = _Seen(frame)
        looks.append(seen.look)
        thumbnails.append(seen.thumbnail)
        if last is not None:
            if frame.shape != last.frame.shape:
                raise ValueError(f"frame {index}: {list(frame.shape)} is another size than {list(last.frame.shape)}")
            pairs.append(last.to(seen))
            if before_last is not None:
                accelerations.append(acceleration(before_last, last.frame, frame))
            before_last = last.frame
        last = seen
    if last is None or len(looks) < 2:
        raise ValueError(f"{len(looks)} frames are not a video; at least 2 are needed")
    luminance, contrast, saturation, sharpness = np.array(looks).T
    motion, pixels, structure, compensated, details, colour = np.array(pairs).T
    return Observation(
        width=last.frame.shape[1],
        height=last.frame.shape[0],
        luminance=luminance,
        contrast=contrast,
        saturation=saturation,
        sharpness=sharpness,
        thumbnails=np.stack(thumbnails),
        motion=motion,
        distances={
            "pixels": pixels,
            "structure": structure,
            "compensated": compensated,
            "detail": details,
            "colour": colour,
            "acceleration": _between(accelerations, len(pairs)),
        },
    )


class _Seen:
    """A frame and what pairs need of it, computed once."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.luma: Plane = luma(frame)
        self.detail = detail(self.luma)
        self.moments = colour_moments(frame)
        self.look = (
            float(self.luma.mean()),
            float(self.luma.std()),
            _saturation(frame),
            float(laplacian(self.luma).var()),
        )
        longest = max(1, round(_THUMBNAIL * max(frame.shape[:2]) / min(frame.shape[:2])))
        channels = [shrunk(frame[..., c].astype(np.float32), longest)[0] for c in range(3)]
        self.thumbnail: Floats = np.stack(channels).astype(np.float64).ravel()

    def to(self, after: "_Seen") -> tuple[float, float, float, float, float, float]:
        """Motion, then the distances in the order of `DISTANCES`, without the acceleration."""
        moved, left = follow(self.luma, after.luma)
        return (
            moved,
            pixel_distance(self.frame, after.frame),
            structure_distance(self.luma, after.luma),
            left,
            abs(after.detail - self.detail),
            float(np.linalg.norm(after.moments - self.moments)),
        )


def _saturation(frame: Frame) -> float:
    high, low = frame.max(axis=2).astype(np.float32), frame.min(axis=2).astype(np.float32)
    return float(((high - low) / np.maximum(high, 1.0)).mean())


def _between(accelerations: list[float], pairs: int) -> Floats:
    """Give every pair of neighbours the mean of the accelerations at its two frames; the ends have one."""
    if not accelerations:
        return np.full(pairs, np.nan)
    at_frame = np.array([np.nan, *accelerations, np.nan])
    return np.asarray(np.nanmean(np.stack([at_frame[:-1], at_frame[1:]]), axis=0))
