"""Seams: is the step from frame to frame larger where clips meet than elsewhere nearby?

Nothing but the video is needed, and no model of what it shows. A ratio of 1 is what is wanted. The shift test asks how
often boundaries at other places would look as bad.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from vinf_client.evaluation.arrays import Floats

Places = npt.NDArray[np.int64]
"""Indices of steps."""

WINDOW = 8
"""Steps to each side of a boundary that a seam is compared with."""

DRAWS = 2000
"""Sets of shifts that the test of several videos draws; they are the same every time."""

MOST = 100.0
"""The largest ratio of a boundary: any step is endlessly larger than none, and one such must not drown all others."""

_NOTHING = 1e-6
"""Steps smaller than this are none: a picture that stands still."""


@dataclass(frozen=True, slots=True)
class Seam:
    """One distance at the boundaries of one video, or of several."""

    ratio: float | None
    """Mean over the boundaries of the step across by the median of those nearby, at most `MOST`; None where nothing
    moves on either side of any."""
    p: float | None
    """Share of the shifts that are at least as bad, the boundaries' own places among them; None: nothing to compare."""
    across: float | None
    """Mean step across boundaries, in the distance's own unit."""
    inside: float | None
    """Median over the boundaries of the usual step nearby."""
    count: int
    """Boundaries."""


@dataclass(frozen=True, slots=True)
class Steps:
    """One distance of one video: the steps from frame to frame, and where clips and scenes begin."""

    values: Floats
    """``[F − 1]``."""
    boundaries: Sequence[int]
    """First frame of each clip but the first, ascending; none of them a cut."""
    cuts: Sequence[int] = ()
    """First frame of each scene but the first: a step there says nothing, and is left out."""
    window: int = WINDOW
    reach: int = 0
    """Steps to each side of a jump that feel it, too."""

    def without_cuts(self) -> Floats:
        """The steps, those that feel a cut not a number."""
        values = np.array(self.values, dtype=np.float64)
        for cut in self.cuts:
            values[max(0, cut - 1 - self.reach) : cut + self.reach] = np.nan
        return values

    @property
    def period(self) -> int:
        """The usual length of a clip."""
        return int(np.median(np.diff([0, *self.boundaries, len(self.values) + 1])))


def seam(videos: Sequence[Steps]) -> Seam:
    """Compare steps across boundaries with those nearby; the boundaries of several videos are pooled.

    This is method 8.2's ratio, but each step across a boundary is divided by the median of the steps near that
    boundary, so that neither a lively video nor a lively stretch of one drowns what is calm. No step counts as more
    than `MOST` times the usual one.
    """
    tables = [_table(video) for video in videos if len(video.boundaries)]
    own = [table[0] for table in tables]
    across = _joined([row.across for row in own])
    usual = _joined([row.usual for row in own])
    relative = _joined([row.relative for row in own])
    return Seam(
        ratio=float(relative.mean()) if len(relative) else None,
        p=_p(tables),
        across=float(across.mean()) if len(across) else None,
        inside=float(np.median(usual)) if len(usual) else None,
        count=len(across),
    )


def _joined(parts: Sequence[Floats]) -> Floats:
    """One after the other, without those that are unknown."""
    values = np.concatenate(parts) if parts else np.empty(0)
    return np.asarray(values[~np.isnan(values)])


@dataclass(frozen=True, slots=True)
class _Row:
    """The boundaries of a video, shifted by some frames: a value each, not a number where it is unknown."""

    across: Floats
    usual: Floats
    relative: Floats


def _table(video: Steps) -> list[_Row]:
    """A row for every shift from 0 to one less than a clip; what would leave the video comes in at its other end."""
    values = video.without_cuts()
    places = np.array(video.boundaries) - 1
    return [_row(values, (places + shift) % len(values), video) for shift in range(video.period)]


def _row(values: Floats, places: Places, video: Steps) -> _Row:
    across = values[places]
    usual = _usual(values, places, video)
    still = usual < _NOTHING
    relative = np.where(still, MOST, across / np.where(still, 1.0, usual))
    relative[(still & (across < _NOTHING)) | np.isnan(across)] = np.nan
    return _Row(across, usual, np.minimum(relative, MOST))


def _usual(values: Floats, places: Places, video: Steps) -> Floats:
    """The median of the steps near each place, without those that feel a boundary; not a number where none is left."""
    calm = np.array(values)
    for offset in range(-video.reach, video.reach + 1):
        felt = places + offset
        calm[felt[(felt >= 0) & (felt < len(calm))]] = np.nan
    side = min(video.reach + video.window, len(values))
    nearby = sliding_window_view(np.pad(calm, side, constant_values=np.nan), 2 * side + 1)[places]
    # np.nanmedian takes ten times as long; the sort puts what is not a number at the end.
    nearby = np.sort(nearby, axis=1)
    counts = np.count_nonzero(~np.isnan(nearby), axis=1)
    rows = np.arange(len(places))
    return np.asarray((nearby[rows, (counts - 1) // 2] + nearby[rows, counts // 2]) / 2)


def _p(tables: Sequence[Sequence[_Row]]) -> float | None:
    """The shift test: a permutation test whose statistic is the pooled ratio.

    One video's shifts are all tried. Of several videos each is shifted by a number of its own, drawn `DRAWS` times, for
    the same shift in all would leave as few cases as frames in a clip.
    """
    sums = [np.array([np.nansum(row.relative) for row in table]) for table in tables]
    counts = [np.array([np.count_nonzero(~np.isnan(row.relative)) for row in table]) for table in tables]
    kept = [place for place, count in enumerate(counts) if count[0] and len(count) > 1]
    if not kept:
        return None
    if len(kept) == 1:
        total, count = sums[kept[0]], counts[kept[0]]
    else:
        rng = np.random.default_rng(0)
        total, count = np.zeros(DRAWS + 1), np.zeros(DRAWS + 1)
        for place in kept:
            shifts = np.concatenate([[0], rng.integers(len(sums[place]), size=DRAWS)])
            total += sums[place][shifts]
            count += counts[place][shifts]
    with np.errstate(invalid="ignore"):
        statistic = np.where(count > 0, total / np.maximum(count, 1), -np.inf)
    as_bad = statistic >= statistic[0] * (1 - 1e-12)
    return float(as_bad.mean())
