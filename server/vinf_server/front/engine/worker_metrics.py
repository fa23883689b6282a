"""From the ranks' own counters, which begin again with every process, to counters that only grow."""

from __future__ import annotations

import time

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.metrics import Metrics
from vinf_server.front.metrics.ranks import STAGES


class WorkerMetrics:
    """Turns beats into metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last: dict[tuple[int, int], link_pb2.BeatRequest] = {}
        self._gpus: dict[int, str] = {}

    def take_beat(self, epoch: int, beat: link_pb2.BeatRequest) -> None:
        """Add what the rank did since its last beat."""
        if not beat.device:
            return  # the rank has not chosen one yet
        metrics, labels = self._metrics.ranks, (str(beat.rank), beat.device)
        known = self._gpus.get(beat.rank)
        if known != beat.device:
            if known is not None:
                metrics.rank_has_moved(beat.rank, known)
            self._gpus[beat.rank] = beat.device
            metrics.rank_is_known(beat.rank, beat.device)
        last = self._last.get((epoch, beat.rank), link_pb2.BeatRequest())
        metrics.frames.labels(*labels).inc(max(0, beat.frame_count - last.frame_count))
        metrics.prompt_hits.labels(*labels).inc(max(0, beat.prompt_cache_hit_count - last.prompt_cache_hit_count))
        metrics.prompt_misses.labels(*labels).inc(max(0, beat.prompt_cache_miss_count - last.prompt_cache_miss_count))
        for stage in STAGES:
            # get, not []: looking a key up in a map field adds it.
            grown = beat.busy_seconds.get(stage, 0.0) - last.busy_seconds.get(stage, 0.0)
            metrics.busy.labels(*labels, stage).inc(max(0.0, grown))
        metrics.memory_used.labels(*labels).set(beat.memory_used_bytes)
        metrics.memory_total.labels(*labels).set(beat.memory_total_bytes)
        metrics.heartbeat.labels(*labels).set(time.time())
        metrics.up.labels(*labels).set(1)
        self._last[epoch, beat.rank] = beat

    def take_frame_bytes(self, peer: str, size: int) -> None:
        """Count what a rank has sent: over the unix socket, or from the address of another host."""
        self._metrics.ranks.link_frame_bytes.labels(peer).inc(size)

    def group_lost(self) -> None:
        """Show every rank as down and forget the counts of its process."""
        for rank, gpu in self._gpus.items():
            self._metrics.ranks.up.labels(str(rank), gpu).set(0)
            self._metrics.ranks.memory_used.labels(str(rank), gpu).set(0)
        self._last.clear()
