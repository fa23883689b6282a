"""What the front holds, and whether it gives everything back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass

import psutil

from tests.chaos.front import ChaosFront
from tests.support.remains import left_segments

SETTLE_S = 60.0
"""How long a front may take to give everything back once its clients have gone."""

RESIDENT_SLACK_BYTES = 24 << 20
"""The allocator keeps what it once had; a leak of chaos would be far more."""

THREAD_SLACK = 8
"""Pools of threads fill up to their bound with the first load that needs them all."""

DESCRIPTOR_SLACK = 4
"""Files of a data directory that are opened when they are needed first."""

_CACHES = "torchinductor_"
"""Torch's own cache, one folder a user and always under the same name."""


@dataclass(frozen=True, slots=True)
class Resources:
    """One look at the front."""

    resident_bytes: int
    cached_bytes: int
    """Of these, frames that are kept for further readers; the server bounds them."""

    descriptors: int
    threads: int
    processes: int
    """Below the front: the agent and its ranks."""

    @property
    def lasting_bytes(self) -> int:
        """Resident memory that no bound of the server explains."""
        return self.resident_bytes - self.cached_bytes

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        resident, cached = self.resident_bytes / 2**20, self.cached_bytes / 2**20
        return (
            f"{resident:.1f} MiB resident ({cached:.1f} of it cached frames), {self.descriptors} file descriptors, "
            f"{self.threads} threads, {self.processes} processes below it"
        )


def look(front: ChaosFront) -> Resources:
    """Measure now."""
    process = psutil.Process(front.pid)
    return Resources(
        resident_bytes=process.memory_info().rss,
        cached_bytes=int(front.metric("vinf_frame_cache_bytes")),
        descriptors=process.num_fds(),
        threads=process.num_threads(),
        processes=len(process.children(recursive=True)),
    )


def excess(now: Resources, baseline: Resources) -> list[str]:
    """What is more than at the beginning, in words."""
    found = []
    if now.lasting_bytes > baseline.lasting_bytes + RESIDENT_SLACK_BYTES:
        found.append(f"resident memory without cached frames grew from {baseline} to {now}")
    if now.descriptors > baseline.descriptors + DESCRIPTOR_SLACK:
        found.append(f"file descriptors grew from {baseline.descriptors} to {now.descriptors}")
    if now.threads > baseline.threads + THREAD_SLACK:
        found.append(f"threads grew from {baseline.threads} to {now.threads}")
    if now.processes != baseline.processes:
        found.append(f"{now.processes} processes below the front, {baseline.processes} before")
    return found


async def rested(front: ChaosFront, *, processes: int) -> Resources:
    """Measure once the front has so many processes below it: a spare agent comes some seconds after its group.

    Raises:
        RuntimeError: it does not get there within `SETTLE_S`.
    """
    deadline = time.monotonic() + SETTLE_S
    while (now := look(front)).processes != processes:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{processes} processes are due below the front at rest, it has {now}")
        await asyncio.sleep(0.2)
    return now


async def settle(front: ChaosFront, baseline: Resources) -> tuple[Resources, list[str]]:
    """Wait until the front is back at its baseline; returns the last look and what is still too much."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        now = look(front)
        found = excess(now, baseline)
        known = {front.pid, *(process.pid for process in psutil.Process(front.pid).children(recursive=True))}
        found += [
            f"process {process.pid} belongs to no front any more"
            for process in front.processes()
            if process.pid not in known and process.is_running()
        ]
        if not found or time.monotonic() > deadline:
            return now, found
        await asyncio.sleep(0.5)


def leftovers(front: ChaosFront, shared_before: frozenset[str]) -> list[str]:
    """What a server that was stopped in good order has left lying about, in words."""
    found = [f"process {process.pid} is still there: {process.name()}" for process in front.processes()]
    found += [f"shared-memory segment {name} is still there" for name in sorted(left_segments(shared_before))]
    found += [f"private folder {path.name} is still there" for path in sorted((front.folder / "data").glob("run-*"))]
    found += [
        f"temporary file {path.name} is still there"
        for path in sorted(front.private.iterdir())
        if not path.name.startswith(_CACHES)
    ]
    return found
