"""What is measured of a video: by eye, as `vinf eval` does, and by the world's tracker, which knows what it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.modes import boundaries
from training.sprites import tracker
from training.sprites.world import Prompt
from vinf_client.evaluation import assess, observe

_DIGITS = 5


def score(video: NDArray[np.uint8], prompt: Prompt) -> dict[str, Any]:
    """Measure one video ``[F, H, W, 3]`` at the boundaries that all modes share; plain values, fit for JSON."""
    starts = boundaries(len(video))
    found = assess(observe(iter(video)), boundaries=starts)
    judged = tracker.score(video, prompt.spec)
    track = tracker.track(video)
    jumps = np.hypot(*np.diff(track.centres, axis=0).T)
    return {
        "steps_by_distance": {name: _rounded(values) for name, values in found.observation.distances.items()},
        "seams": {
            name: {"ratio": seam.ratio, "p": seam.p, "across": seam.across, "inside": seam.inside}
            for name, seam in found.seams.items()
        },
        "flicker": found.flicker,
        "motion": found.motion,
        "fast_motion": found.fast_motion,
        "drift": {name: line.slope for name, line in found.drift.items()},
        "period": found.repetition.period,
        "repetition": found.repetition.strength,
        "tracker": {
            "visible": judged.visible,
            "colour": judged.colour,
            "background": judged.background,
            "motion": judged.motion,
            "identity_drift": _finite(tracker.identity_drift(track)),
            "jumps": _rounded(jumps),
        },
    }


def _rounded(values: NDArray[Any]) -> list[float | None]:
    return [float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None for value in values]


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
