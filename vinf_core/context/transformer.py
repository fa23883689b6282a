"""A TransformerTemporalModel over clips: its group norm spans the video, its attentions use the dual scope."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vinf_core.context.attention import DualScopeProcessor
from vinf_core.context.clip_context import ClipContext
from vinf_core.context.normalisation import join_video_group_norm, video_group_norm


class ClipTransformer(nn.Module):
    """Wraps diffusers' ``TransformerTemporalModel``."""

    def __init__(self, transformer: nn.Module, context: ClipContext) -> None:
        super().__init__()
        self.transformer = transformer
        self._context = context
        for block in transformer.transformer_blocks:  # type: ignore[union-attr]
            for attention in (block.attn1, block.attn2):  # type: ignore[union-attr]
                attention.set_processor(DualScopeProcessor(context))  # type: ignore[union-attr, operator]

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        num_frames: int = 1,
        return_dict: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor]:
        """``[B * f, C, h, w]`` → a tuple with the same shape; ``num_frames`` is ignored, the layout knows better."""
        assert encoder_hidden_states is None, "temporal transformers attend to frames only"
        assert not return_dict
        inner: Any = self.transformer
        if not self._context.layout.clip.count:
            join_video_group_norm(hidden_states.shape[0], inner.norm, self._context.exchange, hidden_states.device)
            return (hidden_states,)
        clip = self._context.split_frames(hidden_states).transpose(1, 2)
        batch, channels, frames, height, width = clip.shape
        tokens = video_group_norm(clip, clip, inner.norm, self._context.exchange)
        tokens = tokens.permute(0, 3, 4, 2, 1).reshape(batch * height * width, frames, channels)
        tokens = inner.proj_in(tokens)
        for block in inner.transformer_blocks:
            tokens = block(tokens)
        tokens = inner.proj_out(tokens)
        restored = tokens.reshape(batch, height, width, frames, channels).permute(0, 3, 4, 1, 2)
        return (hidden_states + restored.reshape(hidden_states.shape),)
