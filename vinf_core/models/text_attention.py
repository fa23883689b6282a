"""Cross-attention to a text that all frames share: its keys and values are computed once, not once a frame."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def is_plain(attention: Any) -> bool:
    """Whether an ``Attention`` module does nothing but project, attend and project again, as `SharedTextAttention`."""
    extras = ("norm_q", "norm_k", "norm_cross", "group_norm", "spatial_norm", "added_kv_proj_dim", "fused_projections")
    return (
        not any(getattr(attention, name, None) for name in extras)
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
        and attention.to_k is not None
        and attention.to_k.out_features == attention.inner_dim
    )


class RepeatedText:
    """Gives a text that frames share to a processor that wants one a frame; for modules that are not plain."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **more: Any
    ) -> torch.Tensor:
        """Attend from ``[B * f, positions, C]`` to ``[B, tokens, D]`` or ``[B * f, tokens, D]``."""
        if encoder_hidden_states is not None:
            frames = hidden_states.shape[0] // encoder_hidden_states.shape[0]
            encoder_hidden_states = encoder_hidden_states.repeat_interleave(frames, dim=0)
        out: torch.Tensor = self._processor(attn, hidden_states, encoder_hidden_states, **more)
        return out


class SharedTextAttention:
    """An attention processor for diffusers' ``Attention`` modules that look at the prompt."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Attend from positions to words.

        Args:
            attn: the module whose weights apply.
            hidden_states: ``[B * f, positions, C]``.
            encoder_hidden_states: ``[B, tokens, D]``, one text for all f frames of a batch entry, or
                ``[B * f, tokens, D]``.
            attention_mask: not supported.

        Returns:
            ``[B * f, positions, C]``.
        """
        if encoder_hidden_states is None or attention_mask is not None:
            raise TypeError("attention to a text takes the text and no mask")
        texts = encoder_hidden_states.shape[0]
        query = attn.to_q(hidden_states).reshape(texts, -1, attn.heads, attn.inner_dim // attn.heads)
        key, value = (
            project(encoder_hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_k, attn.to_v)
        )
        attended = F.scaled_dot_product_attention(query.transpose(1, 2), key, value, scale=attn.scale)
        merged = attended.transpose(1, 2).reshape(*hidden_states.shape[:2], attn.inner_dim)
        out: torch.Tensor = attn.to_out[0](merged)
        return out
