"""From latents to pixels without a decoder: one linear map, fitted for a model once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, eq=False, slots=True)
class PreviewMap:
    """The colour of each position of a latent, from its channels there and from their mean over the frame.

    The mean is for autoencoders whose decoder looks at the whole frame; where it only looks around, its weights are
    near 0. The tensors are float32; levels are from 0 to 1.
    """

    weight: torch.Tensor
    """``[3, C]``: what each channel adds to red, green and blue."""
    mean_weight: torch.Tensor
    """``[3, C]``: what the mean of each channel adds."""
    bias: torch.Tensor
    """``[3]``."""

    @classmethod
    def from_file(cls, path: Path) -> PreviewMap:
        """Read a JSON file with the fields by name."""
        numbers = json.loads(path.read_text())
        return cls(*(torch.tensor(numbers[name]) for name in ("weight", "mean_weight", "bias")))

    def to(self, device: torch.device) -> PreviewMap:
        """The same map on a device, so that no step has to copy it there."""
        return PreviewMap(self.weight.to(device), self.mean_weight.to(device), self.bias.to(device))

    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """Turn clean latents ``[n, C, h, w]`` on the map's device into RGB ``[n, h, w, 3]``, uint8."""
        latents = latents.to(self.weight.dtype)
        frames = latents.mean(dim=(2, 3)) @ self.mean_weight.T + self.bias
        levels = torch.einsum("nchw,rc->nhwr", latents, self.weight) + frames[:, None, None]
        return (levels.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
