"""Pictures as a model decodes them to what is delivered, and whether they can be."""

from __future__ import annotations

import torch

BLACK_LEVEL = 2
"""Highest level, of 255, of a picture that shows nothing."""


def to_levels(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn pictures into 8-bit levels, rounded, not truncated; nothing waits for a GPU.

    Args:
        pictures: ``[n, H, W, 3]``, float32, 0 to 1, clamped here.

    Returns:
        uint8 of the same shape and memory layout, and a bool that says whether every value was finite.
    """
    # In place behind the clamp: a chunk of large pictures is hundreds of megabytes.
    return pictures.clamp(0, 1).mul_(255).round_().to(torch.uint8), pictures.isfinite().all()


def is_black(levels: torch.Tensor) -> bool:
    """Whether pictures of 8-bit levels show nothing at all; waits for the GPU."""
    return levels.numel() == 0 or int(levels.amax()) <= BLACK_LEVEL
