"""Who has read a generation's frames, and when."""

from __future__ import annotations

import time
from dataclasses import dataclass

MOST_READERS = 64
"""Of one generation; of later ones nothing is noted."""

PAUSE_NS = 60 * 10**9
"""Pulls of one connection that are farther apart count as two readings."""


@dataclass(slots=True)
class Reading:
    """One stream, or the pulls of one connection."""

    name: str
    peer: str
    start_ns: int
    start_frame: int
    end_ns: int = 0
    """When it ended, or was last heard of; 0: it goes on."""
    frame_count: int = 0


class Readers:
    """The readings of one generation, in memory only. Touched by the event loop only."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def stream_opened(self, peer: str, start_frame: int) -> Reading:
        """Note a stream; whoever serves it keeps the rest up to date."""
        return self._note(Reading("stream", peer, time.time_ns(), start_frame))

    def pulled(self, peer: str, start_frame: int, frame_count: int, began_ns: int) -> None:
        """Note a pull that ends now."""
        known = (r for r in reversed(self.readings) if r.peer == peer and r.name == "pull")
        reading = next(known, None)
        if reading is None or began_ns - reading.end_ns > PAUSE_NS:
            reading = self._note(Reading("pull", peer, began_ns, start_frame))
        reading.end_ns = time.time_ns()
        reading.frame_count += frame_count

    def _note(self, reading: Reading) -> Reading:
        if len(self.readings) < MOST_READERS:
            self.readings.append(reading)
        return reading
