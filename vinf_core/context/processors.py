"""Joint attention over clips in stock 3-D transformers of diffusers: `HunyuanVideoTransformer3DModel` and
`EasyAnimateTransformer3DModel`. Their own code runs as it is; what is replaced are the processors of their attentions,
and those are told what they need: the rotary table of the trained frames and, by hooks, the grid of tokens and a rank's
rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.joint_attention import ForwardPass, Heads, JointAttention, TokenGrid
from vinf_core.distributed.collectives import check_heads
from vinf_core.errors import ConfigError
from vinf_core.models.bounded_cache import BoundedCache

KNOWN_MASKS = 2
"""Texts whose tokens are counted once: the halves of the guidance, where they run one at a time."""


@dataclass(frozen=True, slots=True)
class Family:
    """Names that a family of transformers uses."""

    rope: str
    """The module that makes the rotary table of ``[B, C, f, h, w]``: cosines and sines, ``[f * h * w, d]`` each."""
    embedder: str
    """The module that makes tokens of patches."""


FAMILIES = {
    "HunyuanVideoAttnProcessor2_0": Family("rope", "x_embedder"),
    "EasyAnimateAttnProcessor2_0": Family("rope_embedding", "proj"),
}
"""By the class of the stock processor."""


class JointProcessor:
    """Takes the place of a stock processor; the same for both families.

    Blocks of two streams project the text with weights of its own, the later ones with the video's. In what order the
    stock processors put the two together does not show: attention knows no order of keys.
    """

    def __init__(self, attention: JointAttention) -> None:
        self._attention = attention

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend as the stock processor does, over all clips.

        Args:
            attn: diffusers' ``Attention`` module.
            hidden_states: ``[B, tokens, C]`` of this rank's video.
            encoder_hidden_states: ``[B, tokens, C]`` of the text.
            attention_mask: not used; it would be that of this clip alone.
            image_rotary_emb: what `TrainedRotary` made, complex ``[positions, tokens a frame, d / 2]``.

        Returns:
            Video and text, of the same shapes.
        """
        video = _projected(hidden_states, attn, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k))
        if attn.add_q_proj is None:
            text = _projected(
                encoder_hidden_states, attn, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k)
            )
        else:
            text = _projected(
                encoder_hidden_states,
                attn,
                (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj),
                (attn.norm_added_q, attn.norm_added_k),
            )
        seen_video, seen_text = self._attention(video, text, image_rotary_emb)
        if getattr(attn, "to_out", None) is not None:
            seen_video = attn.to_out[1](attn.to_out[0](seen_video))
        if getattr(attn, "to_add_out", None) is not None:
            seen_text = attn.to_add_out(seen_text)
        return seen_video, seen_text


def install_joint(transformer: nn.Module, names: Sequence[str], position_count: int, context: ClipContext) -> None:
    """Let a stock 3-D transformer see all clips, in place.

    Args:
        transformer: afterwards it takes ``[B, C, f, h, w]`` of a rank's clip, one idle latent frame where it is empty.
        names: its blocks' attention modules.
        position_count: latent frames it was trained with.
        context: what the attentions read layout and phase from.

    Raises:
        ConfigError: the transformer is of a kind whose computation is not known here, or its heads cannot be divided.
    """
    if position_count < 1:
        raise ConfigError(f"position_count: {position_count} is less than 1, which joint attention needs")
    attentions: list[Any] = [transformer.get_submodule(name) for name in names]
    kinds = {type(attention.processor).__name__ for attention in attentions}
    if len(kinds) != 1 or not kinds <= FAMILIES.keys():
        raise ConfigError(f"transformer: attentions of {', '.join(sorted(kinds))}; known are {', '.join(FAMILIES)}")
    config: Any = transformer.config
    if getattr(config, "patch_size_t", 1) != 1:
        raise ConfigError(f"patch_size_t: {config.patch_size_t} is not 1")
    if getattr(config, "image_condition_type", None) == "token_replace":
        raise ConfigError("image_condition_type: 'token_replace' treats the first frame of every clip as the image's")
    joint = JointAttention(context)
    for attention in attentions:
        check_heads(attention.heads, context.context_axis.topology.world_size)
        attention.set_processor(JointProcessor(joint))
    family = FAMILIES[kinds.pop()]
    transformer.set_submodule(family.rope, TrainedRotary(transformer.get_submodule(family.rope), position_count))
    _Hooks(joint, config.patch_size).register(transformer, family)


class TrainedRotary(nn.Module):
    """A stock rotary module, asked for the table of the trained frames, whatever the clip; the newest one is kept.

    Made anew at every call, and by some modules on the CPU, it would make the host wait for the device each time.
    """

    table: torch.Tensor | None

    def __init__(self, stock: nn.Module, position_count: int) -> None:
        """Wrap a module.

        Args:
            stock: makes the table for the shape of what it is given.
            position_count: latent frames that the transformer was trained with.
        """
        super().__init__()
        self._stock = stock
        self._position_count = position_count
        self.register_buffer("table", None, persistent=False)
        self._made_for: tuple[int, int, torch.device] | None = None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Complex ``[positions, tokens a frame, d / 2]``; the transformer only hands it on to its attentions.

        Args:
            hidden_states: ``[B, C, f, h, w]`` on the device of the table.
        """
        made_for = (*hidden_states.shape[3:], hidden_states.device)
        if self.table is None or self._made_for != made_for:
            trained = hidden_states[:1, :1, :1].expand(-1, -1, self._position_count, -1, -1)
            cosines, sines = (half[:, ::2].to(hidden_states.device) for half in self._stock(trained))
            self.table = torch.unflatten(torch.complex(cosines, sines), 0, (self._position_count, -1))
            self._made_for = made_for
        return self.table


class _Hooks:
    """What a transformer's modules tell its attentions, and what they are given."""

    def __init__(self, joint: JointAttention, patch_size: int) -> None:
        self._joint = joint
        self._patch_size = patch_size
        self._counts: BoundedCache[tuple[Any, ...], tuple[torch.Tensor, tuple[int, ...]]] = BoundedCache(KNOWN_MASKS)

    def register(self, transformer: nn.Module, family: Family) -> None:
        """Hook into a transformer; the hooks stay."""
        self._signature = inspect.signature(type(transformer).forward)
        transformer.register_forward_pre_hook(self._begin, with_kwargs=True)
        transformer.get_submodule(family.embedder).register_forward_hook(self._own_rows)
        transformer.get_submodule("proj_out").register_forward_hook(self._all_rows)

    def _begin(self, transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self._signature.bind(transformer, *args, **kwargs).arguments
        frames, height, width = given["hidden_states"].shape[2:]
        mask = given.get("encoder_attention_mask")
        # Shapes without values have no padding.
        counts = None if mask is None or mask.is_meta else self._counts_of(mask)
        grid = TokenGrid(frames, height // self._patch_size, width // self._patch_size)
        self._joint.begin(ForwardPass(grid, counts))

    def _counts_of(self, mask: torch.Tensor) -> tuple[int, ...]:
        """For every batch entry how many tokens are no padding. The host waits for the device where it is a new mask.

        A mask lies where it does from step to step, and is never changed in place. It is kept with its counts, so that
        no other one can come to lie there meanwhile.
        """
        place = (mask.data_ptr(), tuple(mask.shape), mask.stride(), mask.dtype, mask.device)
        return self._counts.get(place, lambda: (mask, tuple(mask.sum(dim=1, dtype=torch.int).tolist())))[1]

    def _own_rows(self, embedder: nn.Module, args: Any, tokens: torch.Tensor) -> torch.Tensor:
        """Of ``[B, f * rows * columns, C]``, or ``[B * f, C, rows, columns]``, the rows that this rank has."""
        rows, grid = self._joint.own_rows(), self._joint.forward_pass.grid
        if len(rows) == grid.rows:
            return tokens
        if tokens.ndim == 4:
            return tokens[:, :, rows.start : rows.stop]
        whole = torch.unflatten(tokens, 1, (grid.frames, grid.rows, grid.columns))
        return whole[:, :, rows.start : rows.stop].flatten(1, 3)

    def _all_rows(self, projection: nn.Module, args: Any, tokens: torch.Tensor) -> torch.Tensor:
        return self._joint.with_all_rows(tokens)


def _projected(states: torch.Tensor, attn: Any, projections: Sequence[nn.Module], norms: Sequence[Any]) -> Heads:
    """Queries, keys and values of ``[B, tokens, C]``, ``[B, tokens, heads, d]`` each."""
    query, key, value = (torch.unflatten(project(states), 2, (attn.heads, -1)) for project in projections)
    norm_query, norm_key = norms
    return Heads(query if norm_query is None else norm_query(query), key if norm_key is None else norm_key(key), value)
