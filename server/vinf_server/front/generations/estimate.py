"""How long the generation in work will take, from what it and earlier ones took."""

from __future__ import annotations

import time
from collections.abc import Callable

from vinf_server.front.generations.generation import Generation

_DEFAULT_S = 5.0
_MIN_S, _MAX_S = 1.0, 600.0
_SHARE_OF_NEWEST = 0.5
"""Of the newest generation in the mean speed: sizes and loads change."""


class Estimate:
    """Seconds until the ranks are free. Work is counted in pixels times steps; decoding is part of the speed seen."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds_per_work = 0.0
        self._running: Generation | None = None
        self._since = 0.0
        self._first_step = 0
        self._first_step_ended: float | None = None

    def started(self, generation: Generation) -> None:
        """The ranks have begun with this one, or go on with it."""
        self._running, self._since, self._first_step = generation, self._clock(), generation.completed_steps
        self._first_step_ended = None

    def step_ended(self) -> None:
        """One more step of it is done; the first one had the text to wait for, and is no measure of the others."""
        if self._first_step_ended is None:
            self._first_step_ended = self._clock()

    def stopped(self, *, completed: bool) -> None:
        """The ranks are free; `completed`: it ran to its end, so that its speed counts."""
        generation, self._running = self._running, None
        if generation is None or not completed:
            return
        steps = generation.resolved_spec.inference_step_count - self._first_step
        if steps < 1:
            return
        speed = (self._clock() - self._since) / (_work_of_a_step(generation) * steps)
        known = self._seconds_per_work
        self._seconds_per_work = speed if not known else known + _SHARE_OF_NEWEST * (speed - known)

    def remaining_s(self) -> float:
        """Until the ranks take the next generation off the queue; in [1, 600]."""
        if self._running is None:
            return _MIN_S
        expected = self.expected_s()
        return min(max(_DEFAULT_S if expected is None else expected, _MIN_S), _MAX_S)

    def expected_s(self) -> float | None:
        """Until the ranks are free; None: they are, or nothing is known yet."""
        generation = self._running
        if generation is None:
            return None
        steps_left = generation.resolved_spec.inference_step_count - generation.completed_steps
        steps_done = generation.completed_steps - self._first_step
        elapsed = self._clock() - self._since
        if self._seconds_per_work:
            whole = self._seconds_per_work * _work_of_a_step(generation) * (steps_done + steps_left)
            return max(whole - elapsed, _MIN_S)
        if steps_done > 1 and self._first_step_ended is not None:
            return (self._clock() - self._first_step_ended) / (steps_done - 1) * steps_left
        return None


def _work_of_a_step(generation: Generation) -> float:
    spec = generation.resolved_spec
    return float(spec.width * spec.height * spec.frame_count)
