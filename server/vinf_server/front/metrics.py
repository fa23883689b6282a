"""Every number the front exports, on a registry passed in.

Labels have few values: never a generation's id, never a prompt. Label sets that are known in advance start at 0, so a
rate over them is right from the first event on; sets that carry the model's name start with the ranks' first report.
"""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

API_VERSION = "v1"

FINISHED_REASONS = ("succeeded", "failed", "cancelled")
FAILURE_REASONS = (
    "WORKER_LOST",
    "GPU_OUT_OF_MEMORY",
    "OUTPUT_INVALID",
    "FRAMES_MISSING",
    "SPOOL_FAILED",
    "JOB_DEADLINE",
    "INTERNAL",
)
REJECTION_REASONS = ("queue_full", "draining", "not_ready", "invalid", "too_large", "client_limit", "disk_full")
ENCODINGS = ("raw", "jpeg", "png")
STAGES = ("text", "denoise", "communicate", "checkpoint", "decode", "deliver")
RESTART_CAUSES = ("exit", "signal", "hang", "oom")

_FIRST_FRAME_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)
# Edges on 60, 50, 40, 30, 24, 20, 15 and 10 frames per second, so that questions about them have exact answers.
_INTER_FRAME_BUCKETS = (
    *(0.005, 0.01, 0.0167, 0.02, 0.025, 0.0333, 0.0417, 0.05, 0.0667, 0.1),
    *(0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_REQUEST_BUCKETS = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_STEP_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)


class Metrics:
    """The metric objects, and the few updates that take more than one line."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        model, worker = ("model_name",), ("rank", "gpu")

        self.build_info = Gauge(
            "vinf_build_info", "Always 1; what runs here.", ("version", "api_version"), registry=registry
        )
        self.config_info = Gauge(
            "vinf_config_info",
            "Always 1; how it runs.",
            ("model_name", "world_size", "dtype"),
            registry=registry,
        )
        self.ready = Gauge("vinf_ready", "1 while the ranks are up and generations are accepted.", registry=registry)
        self.queue_capacity = Gauge("vinf_queue_capacity", "Generations that may wait.", registry=registry)
        self.running = Gauge("vinf_generations_running", "Generations the ranks work on.", model, registry=registry)
        self.waiting = Gauge("vinf_generations_waiting", "Generations in the queue.", model, registry=registry)
        self.finished = Counter(
            "vinf_generations_finished_total", "Ended generations.", (*model, "finished_reason"), registry=registry
        )
        self.failures = Counter(
            "vinf_generation_failures_total", "Failed generations.", (*model, "reason"), registry=registry
        )
        self.rejections = Counter(
            "vinf_admission_rejections_total", "Refused CreateGeneration calls.", ("reason",), registry=registry
        )
        self.e2e_latency = Histogram(
            "vinf_generation_e2e_latency_seconds",
            "From acceptance to the end.",
            model,
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.queue_time = Histogram(
            "vinf_generation_queue_time_seconds",
            "From acceptance to the start.",
            model,
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.inference_time = Histogram(
            "vinf_generation_inference_time_seconds",
            "From the start to the end.",
            model,
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.first_frame = Histogram(
            "vinf_time_to_first_frame_seconds",
            "From acceptance to the first frame in the spool.",
            model,
            buckets=_FIRST_FRAME_BUCKETS,
            registry=registry,
        )
        self.inter_frame = Histogram(
            "vinf_inter_frame_latency_seconds",
            "Between successive frames of a generation arriving in the spool.",
            model,
            buckets=_INTER_FRAME_BUCKETS,
            registry=registry,
        )
        self.step_duration = Histogram(
            "vinf_denoise_step_duration_seconds",
            "One denoising step of the whole group.",
            model,
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.checkpoints = Counter(
            "vinf_checkpoints_total", "Checkpoints that are complete on disk.", model, registry=registry
        )
        self.checkpoint_bytes = Counter(
            "vinf_checkpoint_bytes_total", "Bytes of checkpoints written to disk.", model, registry=registry
        )
        self.resumes = Counter(
            "vinf_generation_resumes_total",
            "Generations that went on after the ranks were lost.",
            model,
            registry=registry,
        )
        self.generated_frames = Counter(
            "vinf_generated_frames_total", "Frames that reached the spool.", model, registry=registry
        )
        self.delivered_frames = Counter(
            "vinf_delivered_frames_total", "Frames handed to readers.", ("method", "encoding"), registry=registry
        )
        self.delivered_bytes = Counter(
            "vinf_delivered_bytes_total", "Frame bytes handed to readers.", ("method", "encoding"), registry=registry
        )
        self.left_out_frames = Counter(
            "vinf_left_out_frames_total",
            "Frames a reader did not get: no longer kept, or not the latest.",
            ("method", "reason"),
            registry=registry,
        )
        self.frame_conversions = Counter(
            "vinf_frame_conversions_total",
            "Frames read and turned into a format, once for all readers that are at the same place.",
            ("encoding",),
            registry=registry,
        )
        self.frame_cache_bytes = Gauge(
            "vinf_frame_cache_bytes", "Frames kept for readers close behind.", registry=registry
        )
        self.active_streams = Gauge("vinf_active_streams", "Streams open now.", ("method",), registry=registry)

        self.worker_up = Gauge("vinf_worker_up", "1 while the rank's beats arrive.", worker, registry=registry)
        self.worker_heartbeat = Gauge(
            "vinf_worker_heartbeat_timestamp_seconds", "When the last beat arrived.", worker, registry=registry
        )
        self.worker_frames = Counter(
            "vinf_worker_frames_total", "Frames decoded by the rank.", worker, registry=registry
        )
        self.worker_prompt_hits = Counter(
            "vinf_worker_prompt_cache_hits_total", "Prompts found in the rank's cache.", worker, registry=registry
        )
        self.worker_prompt_misses = Counter(
            "vinf_worker_prompt_cache_misses_total", "Prompts the rank had to encode.", worker, registry=registry
        )
        self.worker_busy = Counter(
            "vinf_worker_busy_seconds_total", "Time spent by stage.", (*worker, "stage"), registry=registry
        )
        self.worker_memory_used = Gauge(
            "vinf_worker_memory_used_bytes", "Memory the rank holds.", worker, registry=registry
        )
        self.worker_memory_total = Gauge(
            "vinf_worker_memory_total_bytes", "Memory the rank's device or host has.", worker, registry=registry
        )
        self.link_frame_bytes = Counter(
            "vinf_link_frame_bytes_total",
            "Frame bytes that ranks sent to the front: over the unix socket, or from this address of another host.",
            ("peer",),
            registry=registry,
        )
        self.worker_restarts = Counter(
            "vinf_worker_restarts_total", "Relaunches of the group.", ("cause",), registry=registry
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        self.build_info.labels(version("vinf"), API_VERSION).set(1)
        for reason in REJECTION_REASONS:
            self.rejections.labels(reason)
        for cause in RESTART_CAUSES:
            self.worker_restarts.labels(cause)
        for encoding in ENCODINGS:
            self.frame_conversions.labels(encoding)
            for method in ("StreamFrames", "PullFrames"):
                self.delivered_frames.labels(method, encoding)
                self.delivered_bytes.labels(method, encoding)
        for method in ("StreamFrames", "PullFrames"):
            self.left_out_frames.labels(method, "SKIPPED")
        self.left_out_frames.labels("StreamFrames", "FRAME_EVICTED")
        self.link_frame_bytes.labels("unix")
        for method in ("StreamFrames", "WatchGeneration"):
            self.active_streams.labels(method)

    def model_is_known(self, model_name: str, *, world_size: int, dtype: str) -> None:
        """Make every series of a model, at 0; calling it again changes nothing."""
        self.config_info.labels(model_name, str(world_size), dtype).set(1)
        for reason in FINISHED_REASONS:
            self.finished.labels(model_name, reason)
        for reason in FAILURE_REASONS:
            self.failures.labels(model_name, reason)
        for metric in (
            *(self.running, self.waiting, self.e2e_latency, self.queue_time, self.inference_time),
            *(self.first_frame, self.inter_frame, self.step_duration, self.generated_frames),
            *(self.checkpoints, self.checkpoint_bytes, self.resumes),
        ):
            metric.labels(model_name)

    def count_delivery(self, method: str, encoding: str, *, data_bytes: int) -> None:
        """Note a frame that was handed out whole, and its size."""
        self.delivered_frames.labels(method, encoding).inc()
        self.delivered_bytes.labels(method, encoding).inc(data_bytes)

    def worker_is_known(self, rank: int, gpu: str) -> None:
        """Make every series of a rank, at 0; calling it again changes nothing."""
        labels = (str(rank), gpu)
        for counter in (self.worker_frames, self.worker_prompt_hits, self.worker_prompt_misses):
            counter.labels(*labels)
        for stage in STAGES:
            self.worker_busy.labels(*labels, stage)

    def worker_has_moved(self, rank: int, gpu: str) -> None:
        """Drop the gauges of a rank that runs on another device now; its counters stay for rates over the past."""
        for gauge in (self.worker_up, self.worker_heartbeat, self.worker_memory_used, self.worker_memory_total):
            gauge.remove(str(rank), gpu)
