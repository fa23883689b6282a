"""Drift: does the picture become darker, flatter, paler or softer over a video? Straight lines through its frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vinf_client.evaluation.arrays import Floats
from vinf_client.evaluation.observation import Observation

LOOKS = {
    "luminance": "levels of 255",
    "contrast": "levels of 255",
    "saturation": "0 to 1",
    "sharpness": "variance of the Laplacian",
}
"""What is followed, and its unit."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The least-squares line through one value of every frame; each scene has a level of its own, and all one slope."""

    slope: float
    """Change in 100 frames, in the value's unit."""
    start: float
    """Where the first scene's line begins."""
    change: float | None
    """From the first frame to the last without the cuts, as a share of ``start``; None where that is nothing."""


def drift(values: Floats, cuts: Sequence[int] = ()) -> Drift:
    """Fit a line to ``[F]`` values.

    Args:
        values: one a frame.
        cuts: first frame of each scene but the first, ascending: what changes there does not count.
    """
    scenes = np.split(np.asarray(values, dtype=np.float64), list(cuts))
    times = [np.arange(len(scene)) - (len(scene) - 1) / 2 for scene in scenes]
    spread = sum(float(time @ time) for time in times)
    # Long scenes weigh more, by the cube of their frames: of a short one the slope is mostly noise.
    slope = sum(float(time @ scene) for time, scene in zip(times, scenes, strict=True)) / spread if spread else 0.0
    start = float(scenes[0].mean() + slope * times[0][0])
    change = slope * (len(values) - len(scenes)) / start if abs(start) > 1e-9 else None
    return Drift(slope * 100, start, change)


def drifts(seen: Observation, cuts: Sequence[int] = ()) -> dict[str, Drift]:
    """Every look of `LOOKS`."""
    return {name: drift(getattr(seen, name), cuts) for name in LOOKS}
