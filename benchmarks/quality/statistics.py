"""Medians with intervals, and how well a figure tells two groups of videos apart; numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
"""Resamplings of an interval; they are the same every time."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over prompts, and where 95 % of resampled sets of prompts put it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        value, low, high = (_number(number) for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def estimate(
    samples: Sequence[float | None], statistic: Callable[..., NDArray[Any] | np.floating[Any]] = np.median
) -> Estimate | None:
    """Bootstrap a statistic over prompts; None where nothing is known.

    Args:
        samples: one a prompt; None where it has none.
        statistic: of an array along an axis.
    """
    known = np.array([sample for sample in samples if sample is not None and np.isfinite(sample)], dtype=np.float64)
    if not len(known):
        return None
    rng = np.random.default_rng(0)
    drawn = statistic(known[rng.integers(len(known), size=(DRAWS, len(known)))], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(float(statistic(known, axis=0)), float(low), float(high))


def auc(broken: Sequence[float | None], good: Sequence[float | None]) -> float | None:
    """How often a broken video's figure is above a good one's, over all pairs; ties count half: 0.5 is chance."""
    b, g = (
        np.array([value for value in values if value is not None and np.isfinite(value)]) for values in (broken, good)
    )
    if not len(b) or not len(g):
        return None
    above = (b[:, None] > g[None, :]).mean() + 0.5 * (b[:, None] == g[None, :]).mean()
    return float(above)


def larger_share(broken: Sequence[float | None], good: Sequence[float | None]) -> float | None:
    """Share of pairs, one a prompt, whose first figure is the larger one; ties count half."""
    pairs = [(b, g) for b, g in zip(broken, good, strict=True) if b is not None and g is not None]
    return float(np.mean([0.5 if b == g else float(b > g) for b, g in pairs])) if pairs else None


def beyond_chance(pairs: int) -> float | None:
    """The share up to which (or from one minus which on) a two-sided sign test of so many pairs gives 5 % or less."""
    least, tail = -1, 0.0
    for count in range(pairs + 1):
        tail += math.comb(pairs, count) / 2**pairs
        if 2 * tail > 0.05:
            break
        least = count
    return least / pairs if least >= 0 else None


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
