"""The ranks: what each of them does, and how the group lives."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from vinf_server.front.metrics import buckets

STAGES = ("text", "denoise", "communicate", "checkpoint", "decode", "deliver")
RESTART_CAUSES = ("exit", "signal", "hang", "oom")


class RankMetrics:
    """One series a rank and device, from its beats."""

    def __init__(self, registry: CollectorRegistry) -> None:
        worker = ("rank", "gpu")
        self.up = Gauge("vinf_worker_up", "1 while the rank's beats arrive.", worker, registry=registry)
        self.heartbeat = Gauge(
            "vinf_worker_heartbeat_timestamp_seconds", "When the last beat arrived.", worker, registry=registry
        )
        self.frames = Counter("vinf_worker_frames_total", "Frames decoded by the rank.", worker, registry=registry)
        self.steps = Counter("vinf_worker_steps_total", "Denoising steps the rank took.", worker, registry=registry)
        self.prompt_hits = Counter(
            "vinf_worker_prompt_cache_hits_total", "Prompts found in the rank's cache.", worker, registry=registry
        )
        self.prompt_misses = Counter(
            "vinf_worker_prompt_cache_misses_total", "Prompts the rank had to encode.", worker, registry=registry
        )
        self.image_hits = Counter(
            "vinf_worker_image_cache_hits_total", "Image conditions found in the cache.", worker, registry=registry
        )
        self.image_misses = Counter(
            "vinf_worker_image_cache_misses_total", "Image conditions encoded.", worker, registry=registry
        )
        self.busy = Counter(
            "vinf_worker_busy_seconds_total",
            "Time spent by stage; on a GPU the GPU's own, measured with events, but for deliver, the host's.",
            (*worker, "stage"),
            registry=registry,
        )
        self.memory_used = Gauge("vinf_worker_memory_used_bytes", "Memory the rank holds.", worker, registry=registry)
        self.memory_total = Gauge(
            "vinf_worker_memory_total_bytes", "Memory the rank's device or host has.", worker, registry=registry
        )
        self.memory_peak = Gauge(
            "vinf_worker_memory_peak_bytes",
            "The most the rank has held: on a GPU since its newest generation began, on a CPU since it started.",
            worker,
            registry=registry,
        )
        self.step_skew = Gauge(
            "vinf_worker_step_skew_seconds",
            "Own computing of the slowest rank minus that of the fastest one, a denoising step; without waiting.",
            registry=registry,
        )
        self.link_frame_bytes = Counter(
            "vinf_link_frame_bytes_total",
            "Frame bytes that ranks sent to the front: over the unix socket, or from this address of another host.",
            ("peer",),
            registry=registry,
        )
        self.restarts = Counter("vinf_worker_restarts_total", "Relaunches of the group.", ("cause",), registry=registry)
        self.recovery_duration = Histogram(
            "vinf_worker_recovery_duration_seconds",
            "From the loss of a group to the next one that is ready.",
            ("cause",),
            buckets=buckets.RECOVERY,
            registry=registry,
        )
        for cause in RESTART_CAUSES:
            self.restarts.labels(cause)
            self.recovery_duration.labels(cause)
        self.link_frame_bytes.labels("unix")

    def rank_is_known(self, rank: int, gpu: str) -> None:
        """Make every series of a rank, at 0; calling it again changes nothing."""
        labels = (str(rank), gpu)
        prompts, images = (self.prompt_hits, self.prompt_misses), (self.image_hits, self.image_misses)
        for counter in (self.frames, self.steps, *prompts, *images):
            counter.labels(*labels)
        for stage in STAGES:
            self.busy.labels(*labels, stage)

    def rank_is_gone(self, rank: int, gpu: str) -> None:
        """Drop the gauges of a rank that is on this device no longer; its counters stay for rates over the past."""
        for gauge in (self.up, self.heartbeat, self.memory_used, self.memory_total, self.memory_peak):
            gauge.remove(str(rank), gpu)
