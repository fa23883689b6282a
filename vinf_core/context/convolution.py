"""A TemporalConvLayer over clips: one halo exchange for its four convolutions, exact at clip borders and video ends."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.layout import CONVOLUTION_REACH
from vinf_core.context.normalisation import join_video_group_norm, video_group_norm


class ClipConvolution(nn.Module):
    """Wraps diffusers' ``TemporalConvLayer``.

    The clip is padded once by `CONVOLUTION_REACH` frames to each side; each of the four convolutions eats one of them.
    Frames beyond the video are zeroed *after* the activation, as the layer's own zero padding was in training.
    """

    def __init__(self, layer: nn.Module, context: ClipContext) -> None:
        super().__init__()
        self.layer = layer
        self._context = context

    def forward(self, hidden_states: torch.Tensor, num_frames: int = 1) -> torch.Tensor:
        """``[B * f, C, h, w]`` → ``[B * f, C, h, w]``; ``num_frames`` is ignored, the layout knows better."""
        layout = self._context.layout
        if not layout.clip.count:
            for norm, _ in self._stages():
                join_video_group_norm(hidden_states.shape[0], norm, self._context.exchange, hidden_states.device)
            return hidden_states
        own = self._context.split_frames(hidden_states)
        padded = self._context.exchange.with_context(own, layout.convolution_plan).transpose(1, 2)
        padded = F.pad(padded, (0, 0, 0, 0, layout.missing_before, layout.missing_after))
        for stage, (norm, convolution) in enumerate(self._stages()):
            margin = CONVOLUTION_REACH - stage
            own = padded[:, :, margin : margin + layout.clip.count]
            activated = F.silu(video_group_norm(padded, own, norm, self._context.exchange))
            if layout.inside_video is not None:
                activated = activated * layout.inside_video[stage : len(layout.inside_video) - stage, None, None]
            padded = F.conv3d(activated, convolution.weight, convolution.bias)
        return hidden_states + padded.transpose(1, 2).reshape(hidden_states.shape)

    def _stages(self) -> list[tuple[nn.GroupNorm, nn.Conv3d]]:
        """The layer's four (norm, convolution) pairs."""
        blocks: list[Any] = [getattr(self.layer, f"conv{stage}") for stage in range(1, 5)]
        return [(block[0], block[-1]) for block in blocks]
