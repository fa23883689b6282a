"""NVML and CUDA mean the same GPU by the same name."""

from __future__ import annotations

import pytest
import torch

from vinf_server.rank.gpu import open_reader

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_a_reading_is_of_the_gpu_that_cuda_calls_by_this_name() -> None:
    properties = torch.cuda.get_device_properties(0)
    reader = open_reader(str(properties.uuid))
    assert reader is not None
    before = reader.read().memory_used_bytes.value
    held = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda:0")
    reading = reader.read()
    assert reading.memory_used_bytes.value - before >= held.nbytes // 2
    assert reading.memory_total_bytes.value == pytest.approx(properties.total_memory, rel=0.1)
    assert 0 <= reading.utilization_ratio.value <= 1
