"""Image conditions as tensors."""

from __future__ import annotations

import torch

from vinf_core.types import GenerationSpec, ImageCondition


def pixels_of(image: ImageCondition, spec: GenerationSpec) -> torch.Tensor:
    """Return the picture as RGB ``[H, W, 3]``, uint8, on the CPU: a copy of its own, in the video's size.

    Args:
        image: one of ``spec.images``.
        spec: as `VideoModel.begin` gets it.
    """
    return torch.frombuffer(bytearray(image.pixels), dtype=torch.uint8).view(spec.height, spec.width, 3)
