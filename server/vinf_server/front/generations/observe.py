"""What happens to generations, as metrics."""

from __future__ import annotations

from collections.abc import Mapping

from vinf_server.front.generations.generation import CANCELLED, FAILED, SUCCEEDED, Generation
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.generations import PRIORITIES

FINISHED_REASONS = {SUCCEEDED: "succeeded", FAILED: "failed", CANCELLED: "cancelled"}


class GenerationObserver:
    """One method an event; called after the generation itself was changed."""

    def __init__(self, metrics: Metrics, *, queue_capacity: int) -> None:
        self._metrics = metrics.generations
        metrics.generations.queue_capacity.set(queue_capacity)

    def queue_changed(self, model: str, count_by_priority: Mapping[int, int]) -> None:
        """A generation joined or left the queue; how many wait, by priority."""
        for priority in PRIORITIES:
            self._metrics.waiting.labels(model, str(priority)).set(count_by_priority.get(priority, 0))

    def started(self, generation: Generation) -> None:
        """The ranks have begun."""
        model = generation.resolved_spec.model
        self._metrics.running.labels(model).set(1)
        self._metrics.queue_time.labels(model).observe(_seconds(generation.create_time_ns, generation.start_time_ns))

    def interrupted(self, generation: Generation) -> None:
        """The ranks were lost; it waits for others."""
        self._metrics.running.labels(generation.resolved_spec.model).set(0)

    def resumed(self, generation: Generation) -> None:
        """Other ranks go on with it."""
        model = generation.resolved_spec.model
        self._metrics.running.labels(model).set(1)
        self._metrics.resumes.labels(model).inc()

    def checkpoint_written(self, generation: Generation, size_bytes: int, *, complete: bool) -> None:
        """One more part of a checkpoint is on disk."""
        model = generation.resolved_spec.model
        self._metrics.checkpoint_bytes.labels(model).inc(size_bytes)
        if complete:
            self._metrics.checkpoints.labels(model).inc()

    def step_ended(self, generation: Generation, step_seconds: float) -> None:
        """One more denoising step is done."""
        self._metrics.step_duration.labels(generation.resolved_spec.model).observe(step_seconds)

    def frame_stored(self, generation: Generation, previous_ns: int) -> None:
        """One more frame is in the spool; `previous_ns` is when the one before arrived, 0 for the first."""
        model, now_ns = generation.resolved_spec.model, generation.last_frame_time_ns
        self._metrics.generated_frames.labels(model).inc()
        if previous_ns:
            self._metrics.inter_frame.labels(model).observe(_seconds(previous_ns, now_ns))
        else:
            self._metrics.first_frame.labels(model).observe(_seconds(generation.create_time_ns, now_ns))

    def finished(self, generation: Generation) -> None:
        """It has ended, whether it ever ran or not."""
        model, metrics = generation.resolved_spec.model, self._metrics
        metrics.finished.labels(model, FINISHED_REASONS[generation.state]).inc()
        metrics.e2e_latency.labels(model).observe(_seconds(generation.create_time_ns, generation.end_time_ns))
        if generation.start_time_ns:
            metrics.running.labels(model).set(0)
            metrics.inference_time.labels(model).observe(_seconds(generation.start_time_ns, generation.end_time_ns))
        if generation.state == FAILED and generation.failure is not None:
            metrics.failures.labels(model, generation.failure.reason).inc()


def _seconds(begin_ns: int, end_ns: int) -> float:
    """A duration that a clock set back cannot make negative."""
    return max(0.0, (end_ns - begin_ns) / 1e9)
