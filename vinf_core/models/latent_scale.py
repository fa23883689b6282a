"""VideoCrafter2's scale of latents: the cleaner the training sample, the less it was scaled down."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LatentScale:
    """The factor s of the clean latents at each training timestep: from 1 down to ``end`` over the first ``steps``
    timesteps, then ``end`` (VideoCrafter, lvdm/models/ddpm3d.py, ``use_scale`` and ``scale_b``).

    A noisy latent is x_t = sqrt(acp_t) s_t x_0 + sqrt(1 - acp_t) e, with acp_t the cumulative product of the alphas.
    """

    end: float = 0.7
    steps: int = 400

    def factors(self, count: int) -> torch.Tensor:
        """s at each of ``count`` timesteps, float64."""
        ramp = torch.linspace(1.0, self.end, self.steps, dtype=torch.float64)[:count]
        return torch.cat([ramp, torch.full((count - len(ramp),), self.end, dtype=torch.float64)])
