"""Where a UNet's work happens: every layer with matrices, its kind, and the size of the picture it works on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from diffusers.models.attention_processor import Attention
from torch import nn


class Kind(StrEnum):
    """Parts of a `UNet3DConditionModel`, as its cost is reported."""

    SPATIAL_RESNETS = "spatial resnets"
    SPATIAL_ATTENTION = "spatial attention"
    TEMPORAL_ATTENTION = "temporal attention"
    TEMPORAL_CONVOLUTION = "temporal convolutions"
    TRANSFORMER_IN = "transformer_in"
    UP = "upsamplers"
    DOWN = "downsamplers"
    REST = "rest"


_KINDS = (
    (r"(^|\.)downsamplers\.", Kind.DOWN),
    (r"(^|\.)upsamplers\.", Kind.UP),
    (r"^transformer_in\.", Kind.TRANSFORMER_IN),
    (r"(^|\.)temp_attentions\.", Kind.TEMPORAL_ATTENTION),
    (r"(^|\.)temp_convs\.", Kind.TEMPORAL_CONVOLUTION),
    (r"(^|\.)attentions\.", Kind.SPATIAL_ATTENTION),
    (r"(^|\.)resnets\.", Kind.SPATIAL_RESNETS),
)


@dataclass(frozen=True, slots=True)
class Site:
    """One layer: a linear map, a convolution, or an attention, whose maps are sites of their own."""

    name: str
    module: nn.Module
    kind: Kind
    positions: int
    """Pixels of the latent at this level: height times width of what the layer returns."""


def find_sites(unet: nn.Module, height: int, width: int) -> Iterator[Site]:
    """Walk a `UNet3DConditionModel`, which may be on the meta device, for latents of ``height`` by ``width``."""
    levels = len(unet.down_blocks)  # type: ignore[arg-type]
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d | Attention):
            level = _level(name, levels)
            # A strided convolution with a padding of one rounds up; the way back up follows the skip connections.
            positions = -(-height // 2**level) * -(-width // 2**level)
            yield Site(name, module, _kind(name), positions)


def _kind(name: str) -> Kind:
    return next((kind for pattern, kind in _KINDS if re.search(pattern, name)), Kind.REST)


def _level(name: str, levels: int) -> int:
    """How often the picture has been halved where the layer's output is."""
    if name.startswith("mid_block."):
        return levels - 1
    block = re.match(r"(down|up)_blocks\.(\d+)\.", name)
    if block is None:
        return 0
    level = int(block[2]) if block[1] == "down" else levels - 1 - int(block[2])
    kind = _kind(name)
    return level + (kind is Kind.DOWN) - (kind is Kind.UP)
