"""The frames on disk, and their way to readers."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from vinf_server.front.metrics import buckets

FORMATS = (("raw", "rgb24"), ("raw", "rgba8"), ("raw", "bgra8"), ("raw", "nv12"), ("jpeg", "rgb24"), ("png", "rgb24"))
ENCODINGS = tuple(dict.fromkeys(encoding for encoding, _ in FORMATS))
STREAM, PULL, WATCH = "StreamFrames", "PullFrames", "WatchGeneration"
OVERFLOW, RELEASED = "overflow", "released"


class DeliveryMetrics:
    """What lies in the spool, and what readers get of it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        method = ("method",)
        self.delivered_frames = Counter(
            "vinf_delivered_frames_total", "Frames handed to readers.", (*method, "encoding"), registry=registry
        )
        self.delivered_bytes = Counter(
            "vinf_delivered_bytes_total", "Frame bytes handed to readers.", (*method, "encoding"), registry=registry
        )
        self.left_out_frames = Counter(
            "vinf_left_out_frames_total",
            "Frames a reader did not get: no longer kept, or not the latest.",
            (*method, "reason"),
            registry=registry,
        )
        self.frame_age = Histogram(
            "vinf_frame_age_at_send_seconds",
            "From a frame's arrival in the spool to its sending, by calls that began before the generation ended.",
            method,
            buckets=buckets.FRAME_INTERVAL,
            registry=registry,
        )
        self.encode_duration = Histogram(
            "vinf_frame_encode_duration_seconds",
            "Turning one frame of the spool into a format.",
            ("encoding", "pixel_format"),
            buckets=buckets.ENCODE,
            registry=registry,
        )
        self.frame_conversions = Counter(
            "vinf_frame_conversions_total",
            "Frames read and turned into a format, once for all readers that are at the same place.",
            ("encoding",),
            registry=registry,
        )
        self.frame_cache_bytes = Gauge(
            "vinf_frame_cache_bytes", "Frames kept in memory for readers close behind.", registry=registry
        )
        self.spool_frames = Gauge(
            "vinf_spool_frames", "Frames kept on disk, looked at every five seconds.", registry=registry
        )
        self.spool_bytes = Gauge("vinf_spool_bytes", "What the frames kept on disk take.", registry=registry)
        self.spool_capacity_bytes = Gauge(
            "vinf_spool_capacity_bytes",
            "What frames and checkpoints may take: --disk-budget, or what the disk has.",
            registry=registry,
        )
        self.spool_dropped_frames = Counter(
            "vinf_spool_dropped_frames_total",
            "Frames kept no longer while their generation is: newer ones took their place, or readers released them.",
            ("reason",),
            registry=registry,
        )
        self.active_streams = Gauge(
            "vinf_active_streams", "Streams open and pulls under way now.", method, registry=registry
        )
        self.stream_resumes = Counter(
            "vinf_stream_resumes_total",
            "Streams that began where an earlier one had got to: behind the first frame, or the first event.",
            method,
            registry=registry,
        )
        self.client_stall = Counter(
            "vinf_client_stall_seconds_total",
            "Time that streams waited for their clients to take a message.",
            method,
            registry=registry,
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        for encoding, pixel_format in FORMATS:
            self.encode_duration.labels(encoding, pixel_format)
        for encoding in ENCODINGS:
            self.frame_conversions.labels(encoding)
        for method in (STREAM, PULL):
            for encoding in ENCODINGS:
                self.delivered_frames.labels(method, encoding)
                self.delivered_bytes.labels(method, encoding)
            for reason in ("SKIPPED", "FRAME_EVICTED"):
                self.left_out_frames.labels(method, reason)
            self.frame_age.labels(method)
        for method in (STREAM, PULL, WATCH):
            self.active_streams.labels(method)
        for method in (STREAM, WATCH):
            self.stream_resumes.labels(method)
            self.client_stall.labels(method)
        for reason in (OVERFLOW, RELEASED):
            self.spool_dropped_frames.labels(reason)


class Handed:
    """What one reader was handed, its series looked up once: a frame costs a few microseconds.

    Args:
        method: of the call.
        encoding: a value of that label.
    """

    def __init__(self, metrics: DeliveryMetrics, method: str, encoding: str) -> None:
        self._frames = metrics.delivered_frames.labels(method, encoding)
        self._bytes = metrics.delivered_bytes.labels(method, encoding)
        self._age = metrics.frame_age.labels(method)

    def whole(self, data_bytes: int) -> None:
        """Note a frame that was handed out whole."""
        self._frames.inc()
        self._bytes.inc(data_bytes)

    def sending(self, complete_time_us: int) -> None:
        """Note the age of a frame that is sent now; when it came is in microseconds since the Unix epoch."""
        # A clock that was set back makes no frame younger than new.
        self._age.observe(max(0.0, time.time() - complete_time_us / 1e6))
