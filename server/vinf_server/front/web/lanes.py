"""What every rank was busy with over the last two minutes, from its beats."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.metrics.ranks import STAGES

WINDOW_S = 120.0
_LOOK_S = 0.5
"""Beats come once a second."""

_MOST_SAMPLES = 150
"""Of a rank: a few more than the window has beats."""

_SILENT_S = 3.0
"""Without a beat for so long a rank is shown as down."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a rank did between two beats."""

    sequence: int
    """Over all ranks."""

    rank: int
    end_ms: int
    """Of the wall clock."""

    seconds: float
    busy: tuple[float, ...]
    """Seconds of each stage, in the order of `STAGES`. Work is told when a piece of it ends: may exceed `seconds`."""

    frames_per_second: float
    memory_used_bytes: int
    memory_total_bytes: int

    def to_json(self) -> list[Any]:
        """Numbers only: there are many of them."""
        return [
            *(self.rank, self.end_ms, round(self.seconds, 3), [round(seconds, 3) for seconds in self.busy]),
            *(round(self.frames_per_second, 2), self.memory_used_bytes, self.memory_total_bytes),
        ]


@dataclass(slots=True)
class _Lane:
    beat: link_pb2.BeatRequest
    beat_time: float
    seen_at: float
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))


class Lanes:
    """A bounded ring of samples a rank; looks at the group's newest beats, so that nothing else has to know of it."""

    def __init__(self, status: EngineStatus) -> None:
        self._status = status
        self._lanes: dict[int, _Lane] = {}
        self._known: dict[int, dict[str, Any]] = {}
        self._epoch = 0
        self.sequence = 0
        """Of the newest sample."""

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Take what beats have come since the last look."""
        group, now = self._status.group, time.monotonic()
        if group is None:
            return
        if group.epoch != self._epoch:
            self._epoch = group.epoch
            self._lanes = {rank: lane for rank, lane in self._lanes.items() if rank < group.world_size}
            for lane in self._lanes.values():
                lane.beat = link_pb2.BeatRequest()  # counts of another process
        for rank, status in group.ranks.items():
            if not status.beat.device or group.lost.done():
                continue
            lane = self._lanes.setdefault(rank, _Lane(link_pb2.BeatRequest(), 0.0, now))
            if not lane.beat.device:
                lane.beat, lane.beat_time, lane.seen_at = status.beat, status.beat_time, now
            elif status.beat_time > lane.beat_time:
                self._take(lane, status.beat, status.beat_time, now)

    def since(self, sequence: int) -> list[Sample]:
        """Samples that are newer than one with this number; 0: all that are kept."""
        return sorted(
            (sample for lane in self._lanes.values() for sample in lane.samples if sample.sequence > sequence),
            key=lambda sample: sample.sequence,
        )

    def describe(self) -> list[dict[str, Any]]:
        """The ranks: their devices, and whether they are up."""
        group, now = self._status.group, time.monotonic()
        # Those of a group that was lost stay, until others have their numbers.
        for facts in self._known.values():
            facts["up"] = False
        if group is not None:
            self._known = {rank: facts for rank, facts in self._known.items() if rank < group.world_size}
            for rank, status in group.ranks.items():
                self._known[rank] = {
                    "rank": rank,
                    "device": status.beat.device,
                    "device_name": status.beat.device_name,
                    "host": status.beat.host,
                    "up": not group.lost.done() and self._is_fresh(rank, now),
                }
        return [dict(self._known[rank]) for rank in sorted(self._known)]

    def _is_fresh(self, rank: int, now: float) -> bool:
        lane = self._lanes.get(rank)
        return lane is not None and now - lane.seen_at < _SILENT_S

    def _take(self, lane: _Lane, beat: link_pb2.BeatRequest, beat_time: float, now: float) -> None:
        seconds = beat_time - lane.beat_time
        self.sequence += 1
        lane.samples.append(
            Sample(
                sequence=self.sequence,
                rank=beat.rank,
                end_ms=time.time_ns() // 1_000_000,
                seconds=seconds,
                # get, not []: looking a key up in a map field adds it.
                busy=tuple(
                    max(0.0, beat.busy_seconds.get(stage, 0.0) - lane.beat.busy_seconds.get(stage, 0.0))
                    for stage in STAGES
                ),
                frames_per_second=max(0, beat.frame_count - lane.beat.frame_count) / seconds,
                memory_used_bytes=beat.memory_used_bytes,
                memory_total_bytes=beat.memory_total_bytes,
            )
        )
        lane.beat, lane.beat_time, lane.seen_at = beat, beat_time, now
