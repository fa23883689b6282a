"""Readings through NVML, with a driver that a test plays: its structs, constants and errors are the real ones."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pynvml
import pytest
import torch

from vinf_server.rank import gpu
from vinf_server.rank.beats import Heart
from vinf_server.rank.gpu import GpuReader, GpuWatch

pytestmark = pytest.mark.fast

CUDA_UUID = "8a3ce6a5-0000-0000-0000-000000000000"
DEADLINE_S = 20


class Driver(SimpleNamespace):
    """What `pynvml` has, with one GPU."""

    def __init__(self, *, uuid=f"GPU-{CUDA_UUID}", tells_errors=True, silent=()):
        names = [name for name in dir(pynvml) if name.startswith(("NVMLError", "NVML_", "nvmlEventType"))]
        super().__init__(**{name: getattr(pynvml, name) for name in names})
        self.uuid, self.tells_errors, self.silent = uuid, tells_errors, silent
        self.xids, self.was_started, self.handle = [], False, pynvml.c_nvmlDevice_t()

    def ask(self, what):
        assert self.was_started
        if what in self.silent:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlInit(self):
        self.was_started = True
        self.ask("init")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != self.uuid:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.handle

    def nvmlDeviceGetUtilizationRates(self, handle):
        self.ask("utilization")
        assert handle is self.handle
        return pynvml.c_nvmlUtilization_t(gpu=37, memory=90)

    def nvmlDeviceGetMemoryInfo(self, handle):
        self.ask("memory")
        return pynvml.c_nvmlMemory_t(total=80 << 30, free=20 << 30, used=60 << 30)

    def nvmlDeviceGetPowerUsage(self, handle):
        self.ask("power")
        return 251_500

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        self.ask("energy")
        return 9_007_000

    def nvmlDeviceGetTemperature(self, handle, sensor):
        self.ask("temperature")
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return 61

    def nvmlDeviceGetSupportedEventTypes(self, handle):
        self.ask("events")
        return pynvml.nvmlEventTypePState | (pynvml.nvmlEventTypeXidCriticalError if self.tells_errors else 0)

    def nvmlEventSetCreate(self):
        return pynvml.c_nvmlEventSet_t()

    def nvmlDeviceRegisterEvents(self, handle, kinds, events):
        assert (handle, kinds) == (self.handle, pynvml.nvmlEventTypeXidCriticalError)
        assert self.tells_errors

    def nvmlEventSetWait_v2(self, events, timeout_ms):
        assert timeout_ms == 0, "nobody waits for an error"
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return pynvml.c_nvmlEventData_t(
            eventType=pynvml.nvmlEventTypeXidCriticalError, eventData=self.xids.pop(0), device=self.handle
        )


def errors(reading):
    return {xid: count for xid, count in reading.xid_counts.items() if count}


def test_readings_are_in_base_units():
    reading = GpuReader(Driver(), CUDA_UUID).read()
    assert reading.uuid == f"GPU-{CUDA_UUID}"
    assert reading.utilization_ratio.value == 0.37
    assert (reading.memory_used_bytes.value, reading.memory_total_bytes.value) == (60 << 30, 80 << 30)
    assert (reading.power_watts.value, reading.energy_joules.value) == (251.5, 9007.0)
    assert reading.temperature_celsius.value == 61
    assert errors(reading) == {}


@pytest.mark.parametrize("what", ["utilization", "memory", "power", "energy", "temperature"])
def test_what_a_gpu_does_not_tell_is_left_out_and_nothing_else(what):
    whole = GpuReader(Driver(), CUDA_UUID).read()
    reading = GpuReader(Driver(silent=(what,)), CUDA_UUID).read()
    missing = {field.name for field, _ in whole.ListFields()} - {field.name for field, _ in reading.ListFields()}
    assert missing
    assert all(name.startswith(what) for name in missing)


def test_errors_are_counted_by_number():
    driver = Driver()
    reader = GpuReader(driver, CUDA_UUID)
    driver.xids = [79, 31, 79]
    assert errors(reader.read()) == {79: 2, 31: 1}
    driver.xids = [31]
    assert errors(reader.read()) == {79: 2, 31: 2}


def test_known_errors_are_told_before_the_first_one_comes():
    """Otherwise their series would begin with 1, which no rate shows."""
    driver = Driver()
    reader = GpuReader(driver, CUDA_UUID)
    counts = dict(reader.read().xid_counts)
    assert counts[79] == 0
    assert 999 not in counts
    driver.xids = [79, 999]
    assert errors(reader.read()) == {79: 1, 999: 1}


def test_errors_without_end_do_not_hold_the_reader():
    driver = Driver()
    reader = GpuReader(driver, CUDA_UUID)
    driver.xids = [13] * 1000
    assert errors(reader.read()) == {13: 64}


@pytest.mark.parametrize("driver", [Driver(tells_errors=False), Driver(silent=("events",))])
def test_a_gpu_that_tells_no_errors_is_read_all_the_same(driver):
    reading = GpuReader(driver, CUDA_UUID).read()
    assert reading.HasField("power_watts")
    assert dict(reading.xid_counts) == {}


def test_a_part_of_a_gpu_is_found_by_its_own_name():
    driver = Driver(uuid=f"MIG-{CUDA_UUID}", silent=("utilization", "power", "energy"))
    reading = GpuReader(driver, CUDA_UUID).read()
    assert reading.uuid == f"MIG-{CUDA_UUID}"
    assert reading.HasField("memory_used_bytes")


def test_without_nvml_nothing_is_read_and_nothing_fails():
    """Here there is none; where there is, it knows no such GPU."""
    assert gpu.open_reader(CUDA_UUID) is None
    watch = GpuWatch(lambda: None)
    watch._thread.join(DEADLINE_S)
    assert not watch._thread.is_alive()
    assert watch.newest is None


def test_a_cpu_is_not_watched():
    assert gpu.watch_gpu(torch.device("cpu")) is None


def test_a_beat_carries_the_newest_reading(monkeypatch):
    looked = threading.Semaphore(0)

    class Reader(GpuReader):
        def read(self):
            looked.release()
            return super().read()

    watch = GpuWatch(lambda: Reader(Driver(), CUDA_UUID), every_s=0.01)
    monkeypatch.setattr("vinf_server.rank.beats.watch_gpu", lambda device: watch)
    heart = Heart(SimpleNamespace(), 0)
    heart.describe(torch.device("cpu"), lambda beat: None)
    for _ in range(2):
        assert looked.acquire(timeout=DEADLINE_S)  # the second look begins when the first one is to be seen
    beat = heart.beat()
    assert beat.device_reading == watch.newest
    assert beat.device_reading.power_watts.value == 251.5
    assert beat.memory_peak_bytes >= beat.memory_used_bytes // 2 > 0
    heart.stop()
    watch._thread.join(DEADLINE_S)
    assert not watch._thread.is_alive()


def test_a_driver_that_hangs_leaves_no_old_reading():
    now, looks, again, ends = SimpleNamespace(s=100.0), iter(range(2)), threading.Event(), threading.Event()

    class Reader(GpuReader):
        def read(self):
            if next(looks):
                again.set()  # the first reading is there to be seen
                ends.wait(DEADLINE_S)
            return super().read()

    watch = GpuWatch(lambda: Reader(Driver(), CUDA_UUID), every_s=0.0, clock=lambda: now.s)
    assert again.wait(DEADLINE_S)
    now.s += 3.0
    assert watch.newest.power_watts.value == 251.5
    now.s += 0.1
    assert watch.newest is None
    watch.stop()
    ends.set()
    watch._thread.join(DEADLINE_S)
    assert not watch._thread.is_alive()
    assert watch.newest is not None, "it tells again"


def test_a_driver_that_hangs_does_not_hold_the_beats(monkeypatch):
    hangs, ends = threading.Event(), threading.Event()

    def open_reader():
        hangs.set()
        ends.wait(DEADLINE_S)

    watch = GpuWatch(open_reader)
    monkeypatch.setattr("vinf_server.rank.beats.watch_gpu", lambda device: watch)
    heart = Heart(SimpleNamespace(), 0)
    heart.describe(torch.device("cpu"), lambda beat: None)
    assert hangs.wait(DEADLINE_S)
    assert not heart.beat().HasField("device_reading")
    ends.set()
    watch._thread.join(DEADLINE_S)
    assert not watch._thread.is_alive()
