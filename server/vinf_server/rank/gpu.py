"""What NVML says about the rank's own GPU. Where there is no NVML, nothing is said, and nothing fails."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from vinf.engine.v1 import engine_link_service_pb2 as pb

logger = logging.getLogger(__name__)

READ_SECONDS = 1.0
"""From one look at the GPU to the next."""

_OLD_SECONDS = 3.0
"""A reading that is older says nothing about now: the driver hangs."""

KNOWN_XIDS = (
    *(13, 31, 32, 38, 43, 45, 48, 61, 62, 63, 64, 68, 69, 74, 79, 92, 94, 95, 109, 119, 120, 121, 122, 123, 136, 140),
    *(143, 144, 145, 146, 147, 148, 149, 150, 151, 154),
)
"""Errors that NVIDIA's list has something to say about; others are counted from their first time on."""

_MOST_EVENTS = 64
"""Taken at once: a GPU that reports errors without end must not hold the thread."""


class GpuReader:
    """Reads one GPU.

    Args:
        nvml: the module `pynvml`, or one that has the same functions.
        uuid: of the GPU, as CUDA writes it.

    Raises:
        NVMLError: there is no NVML, or it does not know the GPU.
    """

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self.uuid, self._handle = self._find(uuid)
        self._events = self._subscribe()
        # Known ones are told as 0 before they come: no rate shows the first error of a number that begins with it.
        self._xids = Counter(dict.fromkeys(KNOWN_XIDS if self._events is not None else (), 0))

    def read(self) -> pb.DeviceReading:
        """Look once; what the GPU or the driver does not tell stays unset."""
        nvml, handle = self._nvml, self._handle
        reading = pb.DeviceReading(uuid=self.uuid)
        with suppress(nvml.NVMLError):
            reading.utilization_ratio.value = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        with suppress(nvml.NVMLError):
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            reading.memory_used_bytes.value, reading.memory_total_bytes.value = memory.used, memory.total
        with suppress(nvml.NVMLError):
            reading.power_watts.value = nvml.nvmlDeviceGetPowerUsage(handle) / 1000  # told in milliwatts
        with suppress(nvml.NVMLError):
            reading.energy_joules.value = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000  # in millijoules
        with suppress(nvml.NVMLError):
            celsius = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            reading.temperature_celsius.value = celsius
        self._count_errors()
        reading.xid_counts.update(self._xids)
        return reading

    def _find(self, uuid: str) -> tuple[str, Any]:
        """The GPU's name and handle; a part of one has a name of another kind."""
        nvml = self._nvml
        try:
            return f"GPU-{uuid}", nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except nvml.NVMLError:
            return f"MIG-{uuid}", nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")

    def _subscribe(self) -> Any:
        """Have errors told from now on; None where this GPU tells none."""
        nvml = self._nvml
        try:
            if not nvml.nvmlDeviceGetSupportedEventTypes(self._handle) & nvml.nvmlEventTypeXidCriticalError:
                return None
            events = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(self._handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError:
            return None
        return events

    def _count_errors(self) -> None:
        """Take what has been told by now; waits for nothing."""
        if self._events is None:
            return
        with suppress(self._nvml.NVMLError):  # the end of them is an error, too: a timeout
            for _ in range(_MOST_EVENTS):
                self._xids[self._nvml.nvmlEventSetWait_v2(self._events, 0).eventData] += 1


class GpuWatch:
    """Reads a GPU again and again, in a thread of its own: a driver that hangs must not hold the rank's beats.

    Args:
        open_reader: called in that thread; None: there is nothing to read.
        every_s: from one look to the next.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        open_reader: Callable[[], GpuReader | None],
        *,
        every_s: float = READ_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._newest: tuple[float, pb.DeviceReading] | None = None
        """With the time when it was taken; replaced as one, as other threads read it."""
        self._open_reader = open_reader
        self._every_s = every_s
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vinf-gpu", daemon=True)
        self._thread.start()

    @property
    def newest(self) -> pb.DeviceReading | None:
        """The last reading, unless it is old; any thread may read it, and none may change it."""
        if self._newest is None:
            return None
        taken_at, reading = self._newest
        return reading if self._clock() - taken_at <= _OLD_SECONDS else None

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _run(self) -> None:
        reader = self._open_reader()
        if reader is None:
            return
        while True:
            reading = reader.read()
            self._newest = (self._clock(), reading)
            if self._stop.wait(self._every_s):
                return


def watch_gpu(device: torch.device) -> GpuWatch | None:
    """Watch a rank's device; None when it is no GPU."""
    if device.type != "cuda":
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return GpuWatch(lambda: open_reader(uuid))


def open_reader(uuid: str) -> GpuReader | None:
    """Find the GPU that CUDA calls by this name; None where NVML is missing or does not know it."""
    import pynvml

    try:
        return GpuReader(pynvml, uuid)
    except pynvml.NVMLError as error:
        logger.info("no readings of GPU %s: %s", uuid, error)
        return None
