"""A temporal transformer over clips: its group norm spans the scene, its attentions use the dual scope."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vinf_core.context.attention import dual_scope_attention, row_slices
from vinf_core.context.clip_context import ClipContext
from vinf_core.context.normalisation import scene_norms
from vinf_core.errors import ConfigError


class ClipTransformer(nn.Module):
    """Wraps diffusers' ``TransformerTemporalModel``.

    Raises:
        ConfigError: the model's blocks are not the kind whose computation is known here.
    """

    has_positions = False
    """Whether its attentions know positions."""

    def __init__(self, transformer: nn.Module, context: ClipContext) -> None:
        super().__init__()
        self.transformer = transformer
        self._context = context
        inner: Any = transformer
        for block in inner.transformer_blocks:
            _check_block(block, self.has_positions)

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
        return (self._transform(hidden_states),)

    def _transform(self, hidden_states: torch.Tensor) -> torch.Tensor:
        inner: Any = self.transformer
        context = self._context
        layout, exchange = context.layout, context.exchange
        if not layout.pieces:
            scene_norms([], len(layout.scenes), hidden_states.shape[0], inner.norm, exchange)
            return hidden_states
        clip = context.split_frames(hidden_states).flatten(3)
        batch, frames, channels, positions = clip.shape
        first = layout.clip.start
        pieces = [
            clip[:, piece.frames.start - first : piece.frames.stop - first].transpose(1, 2) for piece in layout.pieces
        ]
        own = [(piece.scene_index, values) for piece, values in zip(layout.pieces, pieces, strict=True)]
        norms = scene_norms(own, len(layout.scenes), batch, inner.norm, exchange)
        width = inner.proj_in.out_features
        tokens = hidden_states.new_empty((batch, positions, frames, width))
        cuts = list(context.slices.positions(clip))
        for cut in cuts:
            normed = [norm.apply(values[..., cut]) for norm, values in zip(norms, pieces, strict=True)]
            part = normed[0] if len(normed) == 1 else torch.cat(normed, dim=2)
            tokens[:, cut] = inner.proj_in(part.permute(0, 3, 2, 1))
        for block in inner.transformer_blocks:
            self._run_block(block, tokens.view(batch * positions, frames, width))
        out = clip.new_empty((batch, frames, channels, positions))
        for cut in cuts:
            torch.add(clip[..., cut], inner.proj_out(tokens[:, cut]).permute(0, 2, 3, 1), out=out[..., cut])
        return out.view(hidden_states.shape)

    def _run_block(self, block: Any, tokens: torch.Tensor) -> None:
        """One BasicTransformerBlock on ``[N, f, C]``, in place."""
        context = self._context
        rows = context.slices.rows(tokens)
        table = self._table(block)
        for norm, attention in ((block.norm1, block.attn1), (block.norm2, block.attn2)):
            dual_scope_attention(tokens, norm, attention, context.attention, context.exchange, rows, table)
        for part in row_slices(tokens, rows):
            tokens[part] += block.ff(block.norm3(tokens[part]))

    def _table(self, block: Any) -> torch.Tensor | None:
        """Of positions, as far as it was trained: ``[position_count, C]``."""
        if not self.has_positions:
            return None
        table: torch.Tensor = block.pos_embed.pe[0, : self._context.layout.position_count]
        return table


class ClipMotionModule(ClipTransformer):
    """Wraps diffusers' ``AnimateDiffTransformer3D``: the same with positions, and called with other arguments."""

    has_positions = True

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:  # type: ignore[override]
        """``[B * f, C, h, w]`` → the same shape."""
        return self._transform(hidden_states)


def _check_block(block: Any, has_positions: bool) -> None:
    """Accept diffusers' BasicTransformerBlock with two plain self-attentions and layer norms; refuse anything else."""
    plain = block.norm_type == "layer_norm" and block.attn2 is not None and (block.pos_embed is None) != has_positions
    for attention in (block.attn1, block.attn2):
        plain = plain and (
            attention.to_k.in_features == attention.to_q.in_features
            and attention.group_norm is None
            and attention.spatial_norm is None
            and attention.norm_q is None
            and not attention.residual_connection
            and attention.rescale_output_factor == 1
        )
    if not plain:
        raise ConfigError("unet: its temporal transformer blocks are of a kind that the dual scope does not know")
