"""Finds ranks that hang: one that gives no sign of life, or a group whose work does not get on.

A rank that is stopped sends no beats. One that hangs in a collective keeps beating, but its count of progress stands
still, and soon so do the others': every step takes all of them. So the work is judged by the newest progress of *any*
rank. A slow rank holds nobody's count back but makes progress of its own, a rank that waits for a slow taker counts its
rounds of agreement, and neither is ever taken for one that hangs.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

SLOWER_THAN_USUAL = 10
"""A step that takes so many times what it usually does hangs."""

LONGER_THAN_EVER = 3
"""So does a silence that is so many times the longest one that ended; most are shorter than a beat's pace."""

_RECENT_STEPS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class HangLimits:
    """Silences that are too long. Unit: seconds"""

    beat_s: float = 4.0
    """A ready rank without a beat; they come every second."""

    work_s: float = 5.0
    """Work without progress, where steps are so short that ten of them would be less."""

    first_step_s: float = 60.0
    """Work without progress before anybody knows what a step takes: kernels are chosen, checkpoints fetched."""

    prepare_s: float = 30.0
    """Work without progress before an order's denoising begins: a large text encoder travels to the device and back, an
    image is encoded, and no step tells how long that takes."""

    start_s: float = 60.0
    """A rank without a beat while the group starts: libraries and models may keep all of its threads waiting."""


class AttentiveClock:
    """Monotonic time during which this process listened.

    A front that was stopped for a while itself has heard nothing meanwhile, and must not blame the ranks for it.
    """

    def __init__(self, longest_nap_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start at 0.

        Args:
            longest_nap_s: how much of the time between two ticks counts, at most.
            monotonic: the clock behind it, in seconds.
        """
        self._longest_nap_s = longest_nap_s
        self._monotonic = monotonic
        self._last = monotonic()
        self._time = 0.0

    def tick(self) -> float:
        """Say that this process listens, and return the time."""
        self._time = self.now()
        self._last = self._monotonic()
        return self._time

    def now(self) -> float:
        """Return the time since the start in seconds."""
        return self._time + min(self._monotonic() - self._last, self._longest_nap_s)


class Pace:
    """What steps take, for each pixel of each frame; outlives groups, so that the next one is judged by it, too."""

    def __init__(self) -> None:
        self._per_pixel: deque[float] = deque(maxlen=_RECENT_STEPS)

    def note(self, seconds: float, frame_pixels: int) -> None:
        """Count a step of a video of so many pixels in all frames together."""
        self._per_pixel.append(seconds / frame_pixels)

    def usual_step_s(self, frame_pixels: int) -> float | None:
        """Tell what a step of such a video usually takes; None before the first step of all."""
        return statistics.median(self._per_pixel) * frame_pixels if self._per_pixel else None


class Work:
    """How an order gets on."""

    def __init__(self, generation_id: str, frame_pixels: int, *, limits: HangLimits, pace: Pace, now: float) -> None:
        """Begin to watch.

        Args:
            generation_id: of the order.
            frame_pixels: pixels of all frames together.
            limits: what is too long.
            pace: what earlier steps took; takes this order's, too.
            now: as all times here, from one `AttentiveClock`.
        """
        self.generation_id = generation_id
        self._frame_pixels = frame_pixels
        self._limits = limits
        self._pace = pace
        self._steps: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._counts: dict[int, int] = {}
        self._progress_times: dict[int, float] = {}
        self._newest = now
        self._longest_silence = 0.0
        self._is_prepared = False

    def take_count(self, rank: int, count: int, now: float) -> None:
        """Note a rank's count of progress; the first one of a rank is nothing new."""
        known = self._counts.setdefault(rank, count)
        if count != known:
            self._counts[rank] = count
            self._progress_times[rank] = now
            self.progressed(now)

    def prepared(self) -> None:
        """Note that texts and images are encoded."""
        self._is_prepared = True

    def step_ended(self, seconds: float, now: float) -> None:
        """Note a step that took so long."""
        self.prepared()
        self._steps.append(seconds)
        self._pace.note(seconds, self._frame_pixels)
        self.progressed(now)

    def progressed(self, now: float) -> None:
        """Note that the work gets on."""
        self._longest_silence = max(self._longest_silence, now - self._newest)
        self._newest = now

    @property
    def usual_step_s(self) -> float | None:
        """What a step takes: of this order, else of earlier ones by their size; None when nobody knows."""
        return statistics.median(self._steps) if self._steps else self._pace.usual_step_s(self._frame_pixels)

    @property
    def limit_s(self) -> float:
        """Longest silence that is taken for work."""
        usual = self.usual_step_s
        known = self._limits.first_step_s if usual is None else SLOWER_THAN_USUAL * usual
        least = self._limits.work_s if self._is_prepared else self._limits.prepare_s
        return max(least, known, LONGER_THAN_EVER * self._longest_silence)

    def silence_s(self, now: float) -> float:
        """How long nothing has got on."""
        return now - self._newest

    @property
    def suspect(self) -> int | None:
        """The rank that got on last of all longest ago; None before any did."""
        times = self._progress_times
        return min(times, key=lambda rank: times[rank]) if times else None
