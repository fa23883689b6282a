"""The front's own process and its event loop."""

from __future__ import annotations

import asyncio

import psutil
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from vinf_server.front.metrics import buckets

_LOOK_S = 0.25
"""From one look at the event loop to the next."""


class ProcessMetrics:
    """Memory, files, threads, garbage collections, and how late the event loop is."""

    def __init__(self, registry: CollectorRegistry) -> None:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        # Asked when somebody scrapes; Python itself knows only the threads that it has started.
        threads = Gauge("process_threads", "Threads of the process, those of libraries included.", registry=registry)
        threads.set_function(psutil.Process().num_threads)
        self.event_loop_lag = Histogram(
            "vinf_event_loop_lag_seconds",
            "By how much the event loop was late to run what was due.",
            buckets=buckets.LOOP_LAG,
            registry=registry,
        )

    async def watch_event_loop(self) -> None:
        """Sleep and see how late it gets, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            self.event_loop_lag.observe(max(0.0, loop.time() - due))
