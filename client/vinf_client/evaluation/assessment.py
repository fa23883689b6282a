"""Everything that is said of a video, and of several together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vinf_client.evaluation.arrays import Floats
from vinf_client.evaluation.drift import Drift, drifts
from vinf_client.evaluation.observation import DISTANCES, REACHES, Observation
from vinf_client.evaluation.repetition import Repetition, repetition
from vinf_client.evaluation.seams import WINDOW, Seam, Steps, seam


@dataclass(frozen=True, slots=True)
class Assessment:
    """What is said of one video."""

    observation: Observation
    boundaries: tuple[int, ...]
    """First frame of each clip but the first, without those where a scene begins."""
    cuts: tuple[int, ...]
    """First frame of each scene but the first."""
    window: int
    seams: Mapping[str, Seam]
    """By the names of `DISTANCES`; empty where no boundaries are known."""
    flicker: float
    """VBench's temporal flickering, raw: (255 − mean absolute difference of neighbours) / 255; 1: nothing changes.
    Cuts are left out of it, as of motion and drift."""
    motion: float
    """Mean distance that blocks move from frame to frame, pixels; see `motion`."""
    fast_motion: float
    """The same at the 95th percentile of the frames, pixels."""
    drift: Mapping[str, Drift]
    repetition: Repetition
    """Over the whole video: a scene that comes back counts."""

    def steps(self, distance: str) -> Steps:
        """What the seams of a distance were found from."""
        return _steps(self.observation, distance, self.boundaries, self.cuts, self.window)


@dataclass(frozen=True, slots=True)
class Pooled:
    """What is said of several videos together."""

    videos: int
    seams: Mapping[str, Seam]
    """Over the boundaries of all."""
    flicker: float
    """Median of the videos, as all that follow."""
    motion: float
    fast_motion: float
    drift: Mapping[str, float]
    """Slopes in 100 frames."""
    drift_size: Mapping[str, float]
    """Slopes in 100 frames, whichever way they go."""


def assess(
    seen: Observation, *, boundaries: Sequence[int] = (), cuts: Sequence[int] = (), window: int = WINDOW
) -> Assessment:
    """Judge a video.

    Args:
        seen: the video.
        boundaries: first frame of each clip but the first; where a scene begins there is no seam to see.
        cuts: first frame of each scene but the first.
        window: steps to each side of a boundary that it is compared with.

    Raises:
        ValueError: a boundary or a cut lies outside the video.
    """
    for name, places in (("boundaries", boundaries), ("cuts", cuts)):
        for place in places:
            if not 1 <= place < seen.frame_count:
                raise ValueError(f"{name}: {place} is not in [1, {seen.frame_count - 1}]")
    if window < 1:
        raise ValueError(f"window: {window} is less than 1")
    scenes = tuple(sorted(set(cuts)))
    clips = tuple(sorted(set(boundaries) - set(scenes)))
    motion = _within(seen.motion, scenes)
    return Assessment(
        observation=seen,
        boundaries=clips,
        cuts=scenes,
        window=window,
        seams={name: seam([_steps(seen, name, clips, scenes, window)]) for name in DISTANCES} if clips else {},
        flicker=float((255.0 - _within(seen.distances["pixels"], scenes).mean()) / 255.0),
        motion=float(motion.mean()),
        fast_motion=float(np.percentile(motion, 95)),
        drift=drifts(seen, scenes),
        repetition=repetition(seen.thumbnails),
    )


def pool(videos: Sequence[Assessment]) -> Pooled:
    """Judge videos together; with few boundaries in each, only all of them tell a seam from chance.

    Raises:
        ValueError: there are none.
    """
    if not videos:
        raise ValueError("no videos to pool")
    with_clips = [video for video in videos if video.boundaries]
    slopes = {name: np.array([video.drift[name].slope for video in videos]) for name in videos[0].drift}
    return Pooled(
        videos=len(videos),
        seams={name: seam([video.steps(name) for video in with_clips]) for name in DISTANCES} if with_clips else {},
        flicker=float(np.median([video.flicker for video in videos])),
        motion=float(np.median([video.motion for video in videos])),
        fast_motion=float(np.median([video.fast_motion for video in videos])),
        drift={name: float(np.median(values)) for name, values in slopes.items()},
        drift_size={name: float(np.median(np.abs(values))) for name, values in slopes.items()},
    )


def _within(values: Floats, scenes: Sequence[int]) -> Floats:
    """The ``[F − 1]`` values of steps that lead into no other scene; one of 0 where every frame is a scene."""
    within = np.delete(values, [cut - 1 for cut in scenes])
    return within if len(within) else np.zeros(1)


def _steps(seen: Observation, distance: str, clips: Sequence[int], scenes: Sequence[int], window: int) -> Steps:
    return Steps(seen.distances[distance], clips, scenes, window, REACHES.get(distance, 0))
