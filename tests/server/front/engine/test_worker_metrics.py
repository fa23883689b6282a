"""Beats as numbers: what ranks and GPUs do, from counters that begin again with every process."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_server.front.engine.worker_metrics import WorkerMetrics

pytestmark = pytest.mark.fast

RANK = {"rank": "0", "gpu": "cuda:0"}
GPU = {"gpu": "cuda:0", "gpu_uuid": "GPU-a"}


@pytest.fixture
def workers(metrics):
    return WorkerMetrics(metrics)


def beat(rank=0, **fields):
    return pb.BeatRequest(rank=rank, device=f"cuda:{rank}", **fields)


def reading(*, uuid="GPU-a", xids=None, **values):
    made = pb.DeviceReading(uuid=uuid, xid_counts=xids or {})
    for name, value in values.items():
        getattr(made, name).value = value
    return made


def test_memory_and_its_peak(workers, sample):
    workers.take_beat(1, beat(memory_used_bytes=3, memory_total_bytes=8, memory_peak_bytes=5))
    for name, value in (("used", 3), ("total", 8), ("peak", 5)):
        assert sample(f"vinf_worker_memory_{name}_bytes", **RANK) == value


def test_steps_are_counted_across_processes(workers, sample):
    workers.take_beat(1, beat())
    assert sample("vinf_worker_steps_total", **RANK) == 0
    workers.take_beat(1, beat(step_count=5))
    workers.group_lost()
    workers.take_beat(2, beat(step_count=2))
    assert sample("vinf_worker_steps_total", **RANK) == 7


def test_skew_is_the_slowest_rank_beside_the_fastest(workers, sample):
    workers.take_beat(1, beat(0, step_count=10, step_seconds=100.0))
    assert sample("vinf_worker_step_skew_seconds") == 0
    workers.take_beat(1, beat(1, step_count=10, step_seconds=100.0))
    workers.take_beat(1, beat(2, step_count=10, step_seconds=100.0))
    workers.take_beat(1, beat(0, step_count=14, step_seconds=102.0))
    workers.take_beat(1, beat(1, step_count=12, step_seconds=101.5))
    workers.take_beat(1, beat(2, step_count=11, step_seconds=101.25))
    assert sample("vinf_worker_step_skew_seconds") == 0.75
    workers.take_beat(1, beat(2, step_count=11, step_seconds=101.25))  # in the middle of a step
    assert sample("vinf_worker_step_skew_seconds") == 0.75
    workers.group_lost()
    assert sample("vinf_worker_step_skew_seconds") == 0


def test_readings_of_a_gpu(workers, sample):
    workers.take_beat(
        1,
        beat(
            device_reading=reading(
                utilization_ratio=0.5,
                memory_used_bytes=3,
                memory_total_bytes=8,
                power_watts=250.5,
                temperature_celsius=61,
            )
        ),
    )
    for name, value in (
        ("utilization_ratio", 0.5),
        ("memory_used_bytes", 3),
        ("memory_total_bytes", 8),
        ("power_watts", 250.5),
        ("temperature_celsius", 61),
    ):
        assert sample(f"vinf_gpu_{name}", **GPU) == value


def test_energy_grows_from_the_first_look_on_and_over_restarts(workers, sample):
    for epoch, joules in ((1, 1000.0), (1, 1010.0), (2, 1050.0)):
        workers.take_beat(epoch, beat(device_reading=reading(energy_joules=joules)))
        workers.group_lost()
    assert sample("vinf_gpu_energy_joules_total", **GPU) == 50
    workers.take_beat(2, beat(device_reading=reading(energy_joules=3.0)))  # the driver was loaded anew
    workers.take_beat(2, beat(device_reading=reading(energy_joules=5.0)))
    assert sample("vinf_gpu_energy_joules_total", **GPU) == 52


def test_xid_errors_are_counted_by_number(workers, sample):
    for epoch, xids in ((1, {}), (1, {79: 1}), (1, {79: 1, 31: 2}), (2, {79: 1})):
        workers.take_beat(epoch, beat(device_reading=reading(xids=xids)))
    assert sample("vinf_gpu_xid_errors_total", xid="79", **GPU) == 2
    assert sample("vinf_gpu_xid_errors_total", xid="31", **GPU) == 2


def test_what_is_not_told_has_no_series(workers, metrics):
    workers.take_beat(1, beat())
    workers.take_beat(1, beat(device_reading=reading(power_watts=1)))
    lines = [line for line in generate_latest(metrics.registry).decode().splitlines() if line.startswith("vinf_gpu_")]
    assert lines == ['vinf_gpu_power_watts{gpu="cuda:0",gpu_uuid="GPU-a"} 1.0']


def test_a_lost_group_leaves_no_old_reading(workers, sample):
    workers.take_beat(1, beat(device_reading=reading(utilization_ratio=1, energy_joules=1)))
    workers.group_lost()
    assert sample("vinf_gpu_utilization_ratio", **GPU) is None
    assert sample("vinf_gpu_energy_joules_total", **GPU) == 0


def test_what_a_gpu_tells_no_longer_has_no_old_value(workers, sample):
    workers.take_beat(1, beat(device_reading=reading(utilization_ratio=1, power_watts=250, energy_joules=1)))
    workers.take_beat(1, beat(device_reading=reading(power_watts=260)))
    assert sample("vinf_gpu_utilization_ratio", **GPU) is None
    assert sample("vinf_gpu_power_watts", **GPU) == 260
    workers.take_beat(1, beat())  # its driver hangs
    assert sample("vinf_gpu_power_watts", **GPU) is None
    assert sample("vinf_gpu_energy_joules_total", **GPU) == 0, "counters stay"
    workers.take_beat(1, beat(device_reading=reading(power_watts=270)))
    assert sample("vinf_gpu_power_watts", **GPU) == 270


def test_a_smaller_group_leaves_no_gauges_of_the_ranks_it_has_not(workers, metrics, sample):
    for rank in range(6):
        workers.take_beat(1, beat(rank, step_count=3))
    workers.group_lost()
    for rank in range(4):
        workers.take_beat(2, beat(rank))
    workers.group_ready(4)
    for gauge in (metrics.ranks.up, metrics.ranks.heartbeat, metrics.ranks.memory_used, metrics.ranks.memory_peak):
        (family,) = gauge.collect()
        assert {s.labels["rank"] for s in family.samples} == {"0", "1", "2", "3"}
    assert sample("vinf_worker_steps_total", rank="5", gpu="cuda:5") == 3
    workers.group_lost()
    workers.take_beat(3, beat(5))
    workers.group_ready(6)
    assert sample("vinf_worker_up", rank="5", gpu="cuda:5") == 1


def test_a_beat_is_stamped_and_a_lost_rank_is_down(workers, sample, monkeypatch):
    monkeypatch.setattr("vinf_server.front.engine.worker_metrics.time.time", lambda: 1_800_000_000.5)
    workers.take_beat(1, beat(memory_used_bytes=3))
    assert sample("vinf_worker_heartbeat_timestamp_seconds", **RANK) == 1_800_000_000.5
    assert sample("vinf_worker_up", **RANK) == 1
    workers.group_lost()
    assert sample("vinf_worker_heartbeat_timestamp_seconds", **RANK) == 1_800_000_000.5
    assert (sample("vinf_worker_up", **RANK), sample("vinf_worker_memory_used_bytes", **RANK)) == (0, 0)


def test_frame_bytes_are_counted_by_where_they_come_from(workers, sample):
    workers.take_frame_bytes("unix", 10)
    workers.take_frame_bytes("10.0.0.2", 5)
    workers.take_frame_bytes("unix", 1)
    assert [sample("vinf_link_frame_bytes_total", peer=peer) for peer in ("unix", "10.0.0.2")] == [11, 5]


def test_busy_seconds_grow_by_stage(workers, sample):
    workers.take_beat(1, beat(busy_seconds={"denoise": 2.0, "communicate": 0.5}))
    workers.take_beat(1, beat(busy_seconds={"denoise": 3.0, "communicate": 0.5}))
    workers.group_lost()
    workers.take_beat(2, beat(busy_seconds={"denoise": 1.0}))
    for stage, seconds in (("denoise", 4.0), ("communicate", 0.5), ("decode", 0.0)):
        assert sample("vinf_worker_busy_seconds_total", stage=stage, **RANK) == seconds
