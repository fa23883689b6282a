"""The device's matrix peak as this run finds it: what a large multiplication reaches in the dtype of the model."""

from __future__ import annotations

import torch

from benchmarks.timing import stopwatch

CPU_SIZE = 1024
CUDA_SIZE = 8192
REPEATS = 10


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply square matrices; return the best rate in FLOP/s, with the threads and clocks of the moment.

    The best of some: a peak is what the device can do, and other work only ever makes it look smaller.
    """
    size = CUDA_SIZE if device.type == "cuda" else CPU_SIZE
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    watch = stopwatch(device)
    with torch.inference_mode():
        return max(2 * size**3 / watch(lambda: torch.mm(left, right, out=out)) for _ in range(REPEATS))
