"""Readings of GPUs, which come with the ranks' beats, as metrics."""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import Gauge

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.metrics.devices import DeviceMetrics


class GpuMetrics:
    """Turns readings into metrics; what a GPU does not tell has no series."""

    def __init__(self, metrics: DeviceMetrics) -> None:
        self._metrics = metrics
        self._shown: dict[int, tuple[str, str]] = {}
        """Labels of the GPU whose gauges have values, by rank."""
        self._energy: dict[str, float] = {}
        self._xids: dict[tuple[int, int, int], int] = {}

    def take(self, epoch: int, rank: int, gpu: str, reading: link_pb2.DeviceReading) -> None:
        """Show a reading.

        Args:
            epoch: of the launch: a new process counts errors anew.
            rank: whose GPU it is.
            gpu: what the rank calls it.
            reading: the newest one.
        """
        labels = (gpu, reading.uuid)
        if self._shown.get(rank) != labels:
            self.silent(rank)
            self._shown[rank] = labels
        # What is unset is not listed.
        told = {field.name: value for field, value in reading.ListFields()}
        for name, gauge in self._metrics.gauges.items():
            if name in told:
                gauge.labels(*labels).set(told[name].value)
            else:
                _remove(gauge, labels)
        if reading.HasField("energy_joules"):
            now = reading.energy_joules.value
            # Since the driver was loaded: what was used while nobody looked counts.
            grown = now - self._energy.get(reading.uuid, now)
            self._energy[reading.uuid] = now
            self._metrics.energy.labels(*labels).inc(max(0.0, grown))
        for xid, count in reading.xid_counts.items():
            grown_count = count - self._xids.get((epoch, rank, xid), 0)
            self._xids[epoch, rank, xid] = count
            self._metrics.xid_errors.labels(*labels, str(xid)).inc(max(0, grown_count))

    def silent(self, rank: int) -> None:
        """The rank's GPU tells nothing any more: its last readings are not those of now. Counters stay."""
        labels = self._shown.pop(rank, None)
        if labels is not None:
            for gauge in self._metrics.gauges.values():
                _remove(gauge, labels)

    def forget(self) -> None:
        """Nobody looks at the GPUs any more."""
        for rank in list(self._shown):
            self.silent(rank)
        self._xids.clear()


def _remove(gauge: Gauge, labels: tuple[str, str]) -> None:
    with suppress(KeyError):  # it may never have been set
        gauge.remove(*labels)
