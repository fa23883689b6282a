"""What happens to generations, as metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache

from vinf.v1 import generation_pb2
from vinf_server.front.generations.generation import (
    CANCELLED,
    FAILED,
    SUCCEEDED,
    SUSPENDED,
    Generation,
    Stage,
)
from vinf_server.front.generations.keeping import Usage
from vinf_server.front.generations.leases import JOB_DEADLINE, LEASE_EXPIRED
from vinf_server.front.generations.run import Run
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.generations import PRIORITIES, REFUSAL_REASONS, SUSPENSION_REASONS, GenerationMetrics

_STATE_REASONS = {SUCCEEDED: "succeeded", FAILED: "failed", CANCELLED: "cancelled"}
_FAILURE_REASONS = {
    LEASE_EXPIRED: "lease_expired",
    JOB_DEADLINE: "deadline",
    **dict.fromkeys(REFUSAL_REASONS, "rejected"),
}
_STAGES = {
    generation_pb2.GENERATION_STAGE_TEXT: "text",
    generation_pb2.GENERATION_STAGE_DENOISE: "denoise",
    generation_pb2.GENERATION_STAGE_DECODE: "decode",
}


def finished_reason(generation: Generation) -> str:
    """Say in a word how a generation ended; a value of the label of that name."""
    reason = generation.failure.reason if generation.failure is not None else ""
    return _FAILURE_REASONS.get(reason, _STATE_REASONS[generation.state])


class GenerationObserver:
    """One method an event; called after the generation itself was changed.

    Args:
        queue_capacity: generations that may wait.
        clock: seconds, never going back.
    """

    def __init__(self, metrics: Metrics, *, queue_capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics.generations
        self._delivery = metrics.delivery
        self._metrics.queue_capacity.set(queue_capacity)
        self._clock = clock
        self._series = cache(lambda model: _FrameSeries(metrics.generations, model))
        self._suspended: dict[str, tuple[str, str]] = {}
        """Model and reason, by id."""
        self._run: Run | None = None
        self._wish_at: float | None = None

    def queue_changed(self, model: str, count_by_priority: Mapping[int, int]) -> None:
        """A generation joined or left the queue; how many wait, by priority."""
        for priority in PRIORITIES:
            self._metrics.waiting.labels(model, str(priority)).set(count_by_priority.get(priority, 0))

    def suspension_changed(self, generation: Generation) -> None:
        """It was suspended, or is no longer; also told when nothing has changed."""
        model, known = generation.resolved_spec.model, generation.generation_id in self._suspended
        if generation.state == SUSPENDED:
            self._suspended[generation.generation_id] = (model, generation.state_reason)
        elif known:
            del self._suspended[generation.generation_id]
        else:
            return
        counts = Counter(self._suspended.values())
        for reason in SUSPENSION_REASONS:
            self._metrics.suspended.labels(model, reason).set(counts[model, reason])

    def started(self, generation: Generation) -> None:
        """The ranks have begun."""
        model = generation.resolved_spec.model
        self._begin_run(generation)
        self._metrics.queue_time.labels(model).observe(_seconds(generation.create_time_ns, generation.start_time_ns))

    def resumed(self, generation: Generation) -> None:
        """The ranks go on with one that was interrupted."""
        self._begin_run(generation)
        self._metrics.resumes.labels(generation.resolved_spec.model).inc()

    def interrupted(self, generation: Generation) -> None:
        """The ranks work on it no longer; it waits, or is suspended."""
        self._end_run(generation)
        self.suspension_changed(generation)

    def planned(self, generation: Generation) -> None:
        """The ranks have cut the video into clips."""
        clip_frames = self._metrics.clip_frames.labels(generation.resolved_spec.model)
        for count in generation.clip_frame_counts:
            if count:  # 0: the rank works along on another one's clip
                clip_frames.observe(count)

    def progressed(self, generation: Generation, stage: Stage, step_seconds: float) -> None:
        """A stage began, or one more denoising step is done after so many seconds."""
        name = _STAGES.get(stage)
        if self._run is not None and name is not None:
            self._stage_ended(generation, self._run.enter(name, self._clock()))
        if step_seconds > 0:
            self._metrics.step_duration.labels(generation.resolved_spec.model).observe(step_seconds)

    def checkpoint_written(self, generation: Generation, size_bytes: int, *, complete: bool) -> None:
        """One more part of a checkpoint is on disk."""
        model = generation.resolved_spec.model
        self._metrics.checkpoint_bytes.labels(model).inc(size_bytes)
        if complete:
            self._metrics.checkpoints.labels(model).inc()

    def frame_stored(self, generation: Generation, previous_ns: int) -> None:
        """One more frame is in the spool; `previous_ns` is when the one before arrived, 0 for the first."""
        spec, now_ns = generation.resolved_spec, generation.last_frame_time_ns
        series = self._series(spec.model)
        series.frames.inc()
        series.pixels.inc(spec.width * spec.height)
        if previous_ns:
            series.inter_frame.observe(_seconds(previous_ns, now_ns))
        else:
            series.first_frame.observe(_seconds(generation.create_time_ns, now_ns))
        if self._run is not None and self._run.stage == "decode":
            self._stage_ended(generation, self._run.enter("deliver", self._clock()))

    def dropped(self, frame_count: int, reason: str) -> None:
        """Frames are kept no longer, though their generation is."""
        if frame_count:
            self._delivery.spool_dropped_frames.labels(reason).inc(frame_count)

    def spool_changed(self, usage: Usage) -> None:
        """Somebody has looked at the disk."""
        self._delivery.spool_frames.set(usage.frames)
        self._delivery.spool_bytes.set(usage.size_bytes)
        self._delivery.spool_capacity_bytes.set(usage.capacity_bytes)

    def cancelling(self) -> None:
        """The one in work is to end early."""
        self._wish_at = self._clock()

    def finished(self, generation: Generation, *, was_in_work: bool) -> None:
        """It has ended, whether it ever ran or not."""
        model, metrics = generation.resolved_spec.model, self._metrics
        metrics.finished.labels(model, finished_reason(generation)).inc()
        metrics.e2e_latency.labels(model).observe(_seconds(generation.create_time_ns, generation.end_time_ns))
        if generation.start_time_ns:
            metrics.inference_time.labels(model).observe(_seconds(generation.start_time_ns, generation.end_time_ns))
        if generation.state == FAILED and generation.failure is not None:
            metrics.failures.labels(model, generation.failure.reason).inc()
        if was_in_work:
            if self._run is not None and generation.state == SUCCEEDED:
                self._stage_ended(generation, self._run.leave(self._clock()))
            if self._wish_at is not None and generation.state != SUCCEEDED:
                metrics.cancel_latency.observe(self._clock() - self._wish_at)
            self._end_run(generation)
        self.suspension_changed(generation)

    def _begin_run(self, generation: Generation) -> None:
        model = generation.resolved_spec.model
        self._run, self._wish_at = Run(generation, self._clock()), None
        self._metrics.running.labels(model).set(1)
        # Asked when somebody scrapes, in a thread of the scrape's, so that it falls while nothing gets on.
        self._metrics.realtime_factor.labels(model).set_function(self._realtime_factor)

    def _end_run(self, generation: Generation) -> None:
        self._run, self._wish_at = None, None
        self._metrics.running.labels(generation.resolved_spec.model).set(0)

    def _realtime_factor(self) -> float:
        run = self._run
        return run.realtime_factor(self._clock()) if run is not None else 0.0

    def _stage_ended(self, generation: Generation, ended: tuple[str, float] | None) -> None:
        if ended is not None:
            stage, seconds = ended
            self._metrics.stage_duration.labels(generation.resolved_spec.model, stage).observe(seconds)


class _FrameSeries:
    """What every frame changes, looked up once."""

    def __init__(self, metrics: GenerationMetrics, model: str) -> None:
        self.frames = metrics.generated_frames.labels(model)
        self.pixels = metrics.generated_pixels.labels(model)
        self.inter_frame = metrics.inter_frame.labels(model)
        self.first_frame = metrics.first_frame.labels(model)


def _seconds(begin_ns: int, end_ns: int) -> float:
    """A duration that a clock set back cannot make negative."""
    return max(0.0, (end_ns - begin_ns) / 1e9)
