"""Bytes that ranks exchange in one step, from the shapes of a UNet's temporal modules alone."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import nn

from benchmarks.sites import Kind, find_sites

PUBLISHED_PADDING = 8
"""Frames each clip fetches from either side, for attention."""
PUBLISHED_GLOBAL_FRAMES = 16
CONVOLUTION_REACH = 4
"""Frames each clip fetches from either side for a temporal convolution, here and there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameBytes:
    """What one frame weighs in one step, added up over all temporal modules."""

    attention: int
    """Hidden states that every temporal attention makes its keys and values from."""
    convolution: int
    """Hidden states at the entrance of every temporal convolution layer."""
    attentions: int
    """Number of temporal attentions."""
    convolutions: int
    """Number of temporal convolution layers."""
    transformers: int
    """Number of temporal transformers."""


def weigh_frame(unet: nn.Module, *, height: int, width: int, texts: int, item_bytes: int) -> FrameBytes:
    """Weigh one frame of a stock `UNet3DConditionModel`, which may be on the meta device.

    Args:
        unet: the model.
        height, width: of the latent.
        texts: texts a step is computed for.
        item_bytes: bytes of one number.
    """
    attention = convolution = attentions = 0
    for site in find_sites(unet, height, width):
        scale = site.positions * texts * item_bytes
        if isinstance(site.module, Attention) and site.kind is not Kind.SPATIAL_ATTENTION:
            attention += site.module.to_k.in_features * scale
            attentions += 1
        elif site.kind is Kind.TEMPORAL_CONVOLUTION and site.name.rsplit(".", 2)[-2] == "conv1":
            convolution += site.module.in_channels * scale  # type: ignore[operator, assignment]
    modules = list(unet.modules())
    return FrameBytes(
        attention=attention,
        convolution=convolution,
        attentions=attentions,
        convolutions=sum(isinstance(module, TemporalConvLayer) for module in modules),
        transformers=sum(isinstance(module, TransformerTemporalModel) for module in modules),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBytes:
    """Bytes that a rank in the middle receives in one step."""

    attention_halo: float
    attention_global: float
    convolution: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.attention_halo + self.attention_global + self.convolution


def published_step_bytes(frame: FrameBytes, ranks: int) -> StepBytes:
    """What the published scheme receives: keys and values of the padding and of all other ranks' global frames."""
    keys_and_values = 2 * frame.attention
    foreign = PUBLISHED_GLOBAL_FRAMES - PUBLISHED_GLOBAL_FRAMES // ranks
    return StepBytes(
        attention_halo=2 * PUBLISHED_PADDING * keys_and_values,
        attention_global=foreign * keys_and_values,
        convolution=2 * CONVOLUTION_REACH * frame.convolution,
    )
