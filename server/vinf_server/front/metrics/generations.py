"""The queue, and what becomes of generations."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from vinf_server.front.metrics import buckets

FINISHED_REASONS = ("succeeded", "failed", "cancelled", "lease_expired", "deadline", "rejected")
FAILURE_REASONS = (
    "WORKER_LOST",
    "GPU_OUT_OF_MEMORY",
    "OUTPUT_INVALID",
    "FRAMES_MISSING",
    "IMAGE_DAMAGED",
    "SPOOL_FAILED",
    "JOB_DEADLINE",
    "INTERNAL",
)
REFUSAL_REASONS = ("INVALID_FIELD", "MODEL_NOT_FOUND", "SPEC_TOO_LARGE")
"""Why ranks cannot make what was admitted when there were others."""

REJECTION_REASONS = ("queue_full", "draining", "not_ready", "invalid", "too_large", "client_limit", "disk_full")
SUSPENSION_REASONS = ("DISK_FULL", "CONSUMER_SLOW")
PRIORITIES = range(10)
STAGES = ("text", "denoise", "decode", "deliver")


class GenerationMetrics:
    """From admission to the end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        model = ("model_name",)
        self.queue_capacity = Gauge("vinf_queue_capacity", "Generations that may wait.", registry=registry)
        self.running = Gauge("vinf_generations_running", "Generations the ranks work on.", model, registry=registry)
        self.waiting = Gauge(
            "vinf_generations_waiting", "Generations in the queue.", (*model, "priority"), registry=registry
        )
        self.suspended = Gauge(
            "vinf_generations_suspended",
            "Generations that wait for room on the disk or for their readers.",
            (*model, "reason"),
            registry=registry,
        )
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
            buckets=buckets.REQUEST,
            registry=registry,
        )
        self.queue_time = Histogram(
            "vinf_generation_queue_time_seconds",
            "From acceptance to the start.",
            model,
            buckets=buckets.REQUEST,
            registry=registry,
        )
        self.inference_time = Histogram(
            "vinf_generation_inference_time_seconds",
            "From the start to the end.",
            model,
            buckets=buckets.REQUEST,
            registry=registry,
        )
        self.first_frame = Histogram(
            "vinf_time_to_first_frame_seconds",
            "From acceptance to the first frame in the spool.",
            model,
            buckets=buckets.FIRST_FRAME,
            registry=registry,
        )
        self.inter_frame = Histogram(
            "vinf_inter_frame_latency_seconds",
            "Between successive frames of a generation arriving in the spool.",
            model,
            buckets=buckets.FRAME_INTERVAL,
            registry=registry,
        )
        self.stage_duration = Histogram(
            "vinf_generation_stage_duration_seconds",
            "One stage of a generation, from the reports of the ranks and the frames that came; stages that ended.",
            (*model, "stage"),
            buckets=buckets.STAGE,
            registry=registry,
        )
        self.step_duration = Histogram(
            "vinf_denoise_step_duration_seconds",
            "One denoising step of the whole group.",
            model,
            buckets=buckets.STEP,
            registry=registry,
        )
        self.clip_frames = Histogram(
            "vinf_clip_frames",
            "Frames of a clip, one value a clip whenever a generation is planned.",
            model,
            buckets=buckets.CLIP_FRAMES,
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
            "Generations that went on after they had been interrupted.",
            model,
            registry=registry,
        )
        self.generated_frames = Counter(
            "vinf_generated_frames_total", "Frames that reached the spool.", model, registry=registry
        )
        self.generated_pixels = Counter(
            "vinf_generated_pixels_total", "Pixels of the frames that reached the spool.", model, registry=registry
        )
        self.realtime_factor = Gauge(
            "vinf_realtime_factor",
            "Frames a second at which the running generation is made, over its frame rate; 0 when none runs.",
            model,
            registry=registry,
        )
        self.cancel_latency = Histogram(
            "vinf_cancel_latency_seconds",
            "From the wish to end a running generation early until the ranks have stopped.",
            buckets=buckets.CANCEL,
            registry=registry,
        )
        for reason in REJECTION_REASONS:
            self.rejections.labels(reason)

    def model_is_known(self, model_name: str) -> None:
        """Make every series of a model, at 0; calling it again changes nothing."""
        for priority in PRIORITIES:
            self.waiting.labels(model_name, str(priority))
        for reason in SUSPENSION_REASONS:
            self.suspended.labels(model_name, reason)
        for reason in FINISHED_REASONS:
            self.finished.labels(model_name, reason)
        for reason in (*FAILURE_REASONS, *REFUSAL_REASONS):
            self.failures.labels(model_name, reason)
        for stage in STAGES:
            self.stage_duration.labels(model_name, stage)
        for metric in (
            *(self.running, self.e2e_latency, self.queue_time, self.inference_time),
            *(self.first_frame, self.inter_frame, self.step_duration, self.clip_frames),
            *(self.generated_frames, self.generated_pixels, self.realtime_factor),
            *(self.checkpoints, self.checkpoint_bytes, self.resumes),
        ):
            metric.labels(model_name)
