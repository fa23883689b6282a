"""Dual-scope temporal attention: every frame sees its neighbours and a sample of the whole video."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from vinf_core.context.clip_context import ClipContext


class DualScopeProcessor:
    """An attention processor for diffusers' ``Attention`` modules inside temporal transformers.

    Ranks exchange the hidden states that keys and values are made of, not keys and values: half the bytes, and every
    rank applies the same weights. The temporal attention has no positions, so the order of keys carries no meaning.
    """

    def __init__(self, context: ClipContext) -> None:
        self._context = context

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """``[B * h * w, f, C]`` of this clip → the same shape, attended over the dual scope."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise TypeError("temporal self-attention takes neither encoder states nor a mask")
        context = self._context
        seen = context.exchange.with_context(hidden_states, context.layout.attention_plan)
        query = _heads(attn.to_q(hidden_states), attn.heads)
        key = _heads(attn.to_k(seen), attn.heads)
        value = _heads(attn.to_v(seen), attn.heads)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=context.mask, scale=attn.scale)
        merged = attended.transpose(1, 2).flatten(2)
        out: torch.Tensor = attn.to_out[1](attn.to_out[0](merged))
        return out


def _heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """``[N, f, heads * d]`` → ``[N, heads, f, d]``."""
    batch, frames, channels = projected.shape
    return projected.view(batch, frames, heads, channels // heads).transpose(1, 2)
