"""Group norm over the whole video while each rank holds only its clip.

The moments are reduced in float64: sums of squares in float32 cancel (a variance error of 1e-4 already at a mean of 30
standard deviations).
"""

from __future__ import annotations

import torch
from torch import nn

from vinf_core.distributed.exchange import Exchange


def video_group_norm(hidden: torch.Tensor, own: torch.Tensor, norm: nn.GroupNorm, exchange: Exchange) -> torch.Tensor:
    """Normalise a padded clip by the statistics of the whole video.

    Args:
        hidden: ``[B, C, n, h, w]``, what to normalise: the clip, perhaps with halo frames.
        own: ``[B, C, f, h, w]``, the rank's own frames, which alone enter the statistics: each frame of the video once.
        norm: the layer whose groups, weights and eps apply.
        exchange: where the moments are summed.

    Returns:
        ``[B, C, n, h, w]`` in the dtype of ``hidden``.
    """
    batch, channels = hidden.shape[:2]
    exact = torch.promote_types(hidden.dtype, torch.float32)
    grouped = own.to(exact).reshape(batch, norm.num_groups, -1)
    variance, mean = (moment.double() for moment in torch.var_mean(grouped, dim=-1, correction=0))
    count = torch.full_like(mean, grouped.shape[-1])
    del grouped  # perhaps a copy of the whole clip
    total, first, second = exchange.sum(torch.stack([count, mean * count, (variance + mean * mean) * count]))
    mean = first / total
    variance = (second / total - mean * mean).clamp_min(0)
    scale = torch.rsqrt(variance + norm.eps).repeat_interleave(channels // norm.num_groups, dim=1)
    shift = -mean.repeat_interleave(channels // norm.num_groups, dim=1) * scale
    if norm.affine:
        shift = shift * norm.weight + norm.bias
        scale = scale * norm.weight
    shape = (batch, channels, 1, 1, 1)
    normalised = torch.addcmul(shift.to(exact).view(shape), hidden.to(exact), scale.to(exact).view(shape))
    return normalised.to(hidden.dtype)


def join_video_group_norm(batch: int, norm: nn.GroupNorm, exchange: Exchange, device: torch.device) -> None:
    """Take part in `video_group_norm` with no frames of one's own: an empty clip joins every reduction."""
    exchange.sum(torch.zeros(3, batch, norm.num_groups, dtype=torch.float64, device=device))
