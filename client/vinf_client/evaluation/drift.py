"""Drift: does the picture become darker, flatter, paler or softer over a video? Straight lines through its frames."""

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
    """The least-squares line through one value of every frame."""

    slope: float
    """Change in 100 frames, in the value's unit."""
    start: float
    """Where the line begins."""
    change: float | None
    """From the line's first frame to its last, as a share of where it begins; None where it begins at nothing."""


def drift(values: Floats) -> Drift:
    """Fit a line to ``[F]`` values."""
    frames = np.arange(len(values), dtype=np.float64)
    slope, start = (float(v) for v in np.polyfit(frames, values, 1))
    change = slope * frames[-1] / start if abs(start) > 1e-9 else None
    return Drift(slope * 100, start, None if change is None else float(change))


def drifts(seen: Observation) -> dict[str, Drift]:
    """Every look of `LOOKS`."""
    return {name: drift(getattr(seen, name)) for name in LOOKS}
