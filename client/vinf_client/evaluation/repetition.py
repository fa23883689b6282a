"""Repetition: does the video come back to what it showed? Peaks of the autocorrelation of small pictures of its frames.

A motion that swings has a peak at its period, as it should; a video of many clips that are alike has one at the length
of a clip; a loop has a peak of 1. Scenes are not told apart: one that comes back is a repetition, too.
"""

from dataclasses import dataclass

import numpy as np

from vinf_client.evaluation.arrays import Floats

LEAST = 0.3
"""Correlation from which on a peak counts."""

SHORTEST = 4
"""Frames from which on a period counts."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """The period at which a video resembles itself most."""

    period: int | None
    """Frames; None: it does not come back to anything within two thirds of its length."""
    strength: float
    """Correlation of the frames with those a period later, −1 to 1; 0 without a period."""


def repetition(thumbnails: Floats) -> Repetition:
    """Find the highest peak of the autocorrelation; of equal ones (within 0.05) the one with the shortest period.

    Args:
        thumbnails: ``[F, D]``; what never changes in them does not count.
    """
    correlations = autocorrelation(thumbnails)
    lags = np.arange(1, len(correlations) - 1)
    is_peak = (correlations[1:-1] >= correlations[:-2]) & (correlations[1:-1] > correlations[2:])
    # Before the first dip frames resemble each other because they are near.
    first_dip = int(np.argmax(correlations[1:] > correlations[:-1])) if np.any(np.diff(correlations) > 0) else len(lags)
    peaks = lags[is_peak & (lags >= SHORTEST) & (lags > first_dip) & (correlations[1:-1] >= LEAST)]
    if not len(peaks):
        return Repetition(None, 0.0)
    highest = correlations[peaks].max()
    period = int(peaks[correlations[peaks] >= highest - 0.05][0])
    return Repetition(period, float(correlations[period]))


def autocorrelation(thumbnails: Floats) -> Floats:
    """Correlation of the frames with those a lag later, for lags from 0 to two thirds of the frames."""
    centred = thumbnails - thumbnails.mean(axis=0)
    count = len(centred)
    found = []
    for lag in range(max(1, count * 2 // 3) + 1):
        early, late = centred[: count - lag], centred[lag:]
        scale = np.sqrt((early**2).sum() * (late**2).sum())
        found.append(float((early * late).sum() / scale) if scale > 1e-9 else 0.0)
    return np.array(found)
