"""The device's matrix peak as a run finds it: what large multiplications reach in the dtype of the model."""

from __future__ import annotations

from collections.abc import Callable

import torch

CPU_SIZE = 1024
CUDA_SIZE = 8192
MULTIPLICATIONS = 10


def matrix_work(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], None], float]:
    """Make work that a device is best at: multiplications of large square matrices, and their FLOP.

    It takes its turns like every contender: other work and the clocks of the moment slow both alike, so the share of
    the peak is steadier than the peak.
    """
    size = CUDA_SIZE if device.type == "cuda" else CPU_SIZE
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)

    @torch.inference_mode()
    def multiply() -> None:
        for _ in range(MULTIPLICATIONS):
            torch.mm(left, right, out=out)

    return multiply, 2.0 * size**3 * MULTIPLICATIONS
