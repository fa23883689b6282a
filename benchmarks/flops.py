"""Floating-point operations of a frame-forward in closed form: one pass of the denoiser, for one frame and one text.

A multiplication and an addition count as two. Only matrix work counts, as for the device's peak it is compared with:
maps, convolutions, and the scores and sums of attention over the keys a query really sees. What an implementation
computes beyond that (masked keys, halos) is its own loss, not work done.
"""

from __future__ import annotations

import math

from torch import nn

from benchmarks.sites import Kind, Site, find_sites

CROSS_ATTENTION = ".attn2"
"""In spatial transformers the second attention looks at the text."""


def frame_forward_flops(
    unet: nn.Module, *, height: int, width: int, frames: int, keys: float, text_tokens: int
) -> dict[Kind, float]:
    """Count a frame-forward, by part of the model.

    Args:
        unet: a stock `UNet3DConditionModel`; the meta device is enough.
        height, width: of the latent.
        frames: of one call; the time embedding is computed once for all of them.
        keys: frames a temporal query sees, on average; ``frames`` for the stock model.
        text_tokens: of one text.
    """
    total = dict.fromkeys(Kind, 0.0)
    for site in find_sites(unet, height, width):
        total[site.kind] += _site_flops(site, frames, keys, text_tokens)
    return total


def mean_keys(frames: int, *, local_window_frames: int, global_frames: int) -> float:
    """Frames that a query of the dual scope sees, on average over the video; each counts once."""
    half = local_window_frames // 2
    sampled = {(2 * j + 1) * frames // (2 * global_frames) for j in range(global_frames)}
    seen = 0
    for query in range(frames):
        near = range(max(0, query - half), min(frames, query + half + 1))
        seen += len(near) + sum(frame not in near for frame in sampled)
    return seen / frames


def _site_flops(site: Site, frames: int, keys: float, text_tokens: int) -> float:
    module, name = site.module, site.name
    spatial = site.kind is Kind.SPATIAL_ATTENTION
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return 2.0 * site.positions * module.weight.numel()
    if isinstance(module, nn.Linear):
        rows: float = site.positions
        if name.startswith("time_embedding."):
            rows = 1 / frames
        elif name.endswith(".time_emb_proj"):
            rows = 1
        elif spatial and name.endswith((f"{CROSS_ATTENTION}.to_k", f"{CROSS_ATTENTION}.to_v")):
            rows = text_tokens
        return 2.0 * rows * module.weight.numel()
    seen = keys if not spatial else text_tokens if name.endswith(CROSS_ATTENTION) else site.positions
    to_q: nn.Linear = module.get_submodule("to_q")  # type: ignore[assignment]
    return 4.0 * site.positions * seen * to_q.out_features


def total_flops(parts: dict[Kind, float]) -> float:
    """The sum over all parts."""
    return math.fsum(parts.values())
