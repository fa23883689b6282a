"""From the ranks' own counters, which begin again with every process, to counters that only grow."""

from __future__ import annotations

import time

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.engine.device_metrics import GpuMetrics
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.ranks import STAGES


class WorkerMetrics:
    """Turns beats into metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics.ranks
        self._devices = GpuMetrics(metrics.devices)
        self._last: dict[tuple[int, int], link_pb2.BeatRequest] = {}
        self._gpus: dict[int, str] = {}
        self._step_seconds: dict[int, float] = {}
        """What a step takes each rank, its own computing alone."""

    def take_beat(self, epoch: int, beat: link_pb2.BeatRequest) -> None:
        """Add what the rank did since its last beat."""
        if not beat.device:
            return  # the rank has not chosen one yet
        metrics, labels = self._metrics, (str(beat.rank), beat.device)
        known = self._gpus.get(beat.rank)
        if known != beat.device:
            if known is not None:
                metrics.rank_is_gone(beat.rank, known)
            self._gpus[beat.rank] = beat.device
            metrics.rank_is_known(beat.rank, beat.device)
        last = self._last.get((epoch, beat.rank), link_pb2.BeatRequest())
        for counter, name in (
            (metrics.frames, "frame_count"),
            (metrics.steps, "step_count"),
            (metrics.prompt_hits, "prompt_cache_hit_count"),
            (metrics.prompt_misses, "prompt_cache_miss_count"),
            (metrics.image_hits, "image_cache_hit_count"),
            (metrics.image_misses, "image_cache_miss_count"),
        ):
            counter.labels(*labels).inc(max(0, getattr(beat, name) - getattr(last, name)))
        for stage in STAGES:
            # get, not []: looking a key up in a map field adds it.
            grown = beat.busy_seconds.get(stage, 0.0) - last.busy_seconds.get(stage, 0.0)
            metrics.busy.labels(*labels, stage).inc(max(0.0, grown))
        metrics.memory_used.labels(*labels).set(beat.memory_used_bytes)
        metrics.memory_total.labels(*labels).set(beat.memory_total_bytes)
        metrics.memory_peak.labels(*labels).set(beat.memory_peak_bytes)
        metrics.heartbeat.labels(*labels).set(time.time())
        metrics.up.labels(*labels).set(1)
        self._compare_steps(beat, last)
        if beat.HasField("device_reading"):
            self._devices.take(epoch, beat.rank, beat.device, beat.device_reading)
        else:
            self._devices.silent(beat.rank)
        self._last[epoch, beat.rank] = beat

    def take_frame_bytes(self, peer: str, size: int) -> None:
        """Count what a rank has sent: over the unix socket, or from the address of another host."""
        self._metrics.link_frame_bytes.labels(peer).inc(size)

    def group_ready(self, world_size: int) -> None:
        """Drop the gauges of ranks that this group does not have: nobody will ever bring them up to date."""
        for rank in [rank for rank in self._gpus if rank >= world_size]:
            self._metrics.rank_is_gone(rank, self._gpus.pop(rank))

    def group_lost(self) -> None:
        """Show every rank as down and forget the counts of its process."""
        for rank, gpu in self._gpus.items():
            self._metrics.up.labels(str(rank), gpu).set(0)
            self._metrics.memory_used.labels(str(rank), gpu).set(0)
        self._metrics.step_skew.set(0)
        self._step_seconds.clear()
        self._devices.forget()
        self._last.clear()

    def _compare_steps(self, beat: link_pb2.BeatRequest, last: link_pb2.BeatRequest) -> None:
        """Set the slowest rank beside the fastest one, by their newest steps."""
        steps = beat.step_count - last.step_count
        if steps <= 0:
            return
        self._step_seconds[beat.rank] = (beat.step_seconds - last.step_seconds) / steps
        seconds = self._step_seconds.values()
        self._metrics.step_skew.set(max(seconds) - min(seconds))
