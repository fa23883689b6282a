"""Group norm over a whole scene of the video while each rank holds only its clip.

Moments are taken about the mean and reduced in float64: sums of squares in float32 cancel (a variance error of 1e-4
already at a mean of 30 standard deviations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vinf_core.distributed.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Affine:
    """A group norm whose statistics are known: ``hidden * scale + shift``."""

    scale: torch.Tensor
    """``[B, C]``, float32 or better."""
    shift: torch.Tensor
    """``[B, C]``, float32 or better."""

    def apply(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise ``[B, C, ...]``, perhaps more frames than gave the statistics; the dtype stays."""
        shape = (*self.scale.shape, *(1 for _ in hidden.shape[2:]))
        # addcmul computes in the scale's precision, and reads half precision without a copy where the device can.
        return torch.addcmul(self.shift.view(shape), hidden, self.scale.view(shape)).to(hidden.dtype)


def scene_norms(
    own: Sequence[tuple[int, torch.Tensor]], scene_count: int, batch: int, norm: nn.GroupNorm, exchange: Exchange
) -> list[Affine]:
    """Find a group norm's statistics over each scene, in one reduction; every rank calls it at the same place.

    Args:
        own: of each piece of this rank's clip the scene's index and the values ``[B, C, f, ...]``: its own frames only,
            so that each frame of the video counts once. An empty clip has none and joins the reduction all the same.
        scene_count: scenes of the video.
        batch: B.
        norm: the layer whose groups, weights and eps apply.
        exchange: where the moments are summed.

    Returns:
        One `Affine` a piece.
    """
    moments = torch.zeros(3, scene_count, batch, norm.num_groups, dtype=torch.float64, device=exchange.device)
    for scene, values in own:
        moments[:, scene] = _moments(values, norm.num_groups)
    total, first, second = exchange.sum(moments)
    affines = []
    for scene, values in own:
        mean = first[scene] / total[scene]
        variance = (second[scene] / total[scene] - mean * mean).clamp_min(0)
        per_group = values.shape[1] // norm.num_groups
        scale = torch.rsqrt(variance + norm.eps).repeat_interleave(per_group, dim=1)
        shift = -mean.repeat_interleave(per_group, dim=1) * scale
        if norm.affine:
            shift = shift * norm.weight + norm.bias
            scale = scale * norm.weight
        exact = torch.promote_types(values.dtype, torch.float32)
        affines.append(Affine(scale.to(exact), shift.to(exact)))
    return affines


def _moments(values: torch.Tensor, groups: int) -> torch.Tensor:
    """Count, sum and sum of squares of ``[B, C, f, ...]`` by group: float64 ``[3, B, groups]``."""
    exact = values.to(torch.promote_types(values.dtype, torch.float32))
    grouped = (
        exact.reshape(exact.shape[0], groups, exact.shape[1] // groups, -1)
        if exact.is_contiguous()
        else (exact.view(exact.shape[0], groups, exact.shape[1] // groups, *exact.shape[2:]))
    )
    count = grouped[0, 0].numel()
    axes = tuple(range(2, grouped.ndim))
    if grouped.device.type != "cpu":
        variance, mean = torch.var_mean(grouped, dim=axes, correction=0)  # one fused kernel there, a slow loop on CPUs
    else:
        mean = grouped.mean(axes, keepdim=True)
        variance = (grouped - mean).square_().mean(axes)
        mean = mean.view(variance.shape)
    mean, variance = mean.double(), variance.double()
    return torch.stack([torch.full_like(mean, count), mean * count, (variance + mean * mean) * count])
