"""Dual-scope temporal attention: every frame sees its neighbours and a sample of the whole video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vinf_core.context.blocks import AttentionPlan, QueryBlock
from vinf_core.context.positions import ProjectedPositions
from vinf_core.distributed.exchange import Exchange


def dual_scope_attention(
    hidden: torch.Tensor,
    norm: nn.Module,
    attention: Any,
    plan: AttentionPlan,
    exchange: Exchange,
    slice_rows: int,
    table: torch.Tensor | None = None,
) -> None:
    """Add a temporal self-attention's output to its input, in place.

    Ranks exchange hidden states before norm and projection, not keys and values: half the bytes, and every rank applies
    the same weights. The order of keys carries no meaning; where the attention knows positions, the plan's blocks tell
    them.

    Args:
        hidden: ``[N, f, C]`` of this clip; N counts positions of all batch entries.
        norm: the layer norm before the attention.
        attention: diffusers' ``Attention`` module.
        plan: the phase in hand.
        exchange: brings the frames of other ranks.
        slice_rows: rows computed at once.
        table: ``[position_count, C]``, added to a frame's normed states at its position; None: there are no positions.
    """
    shifts = None if table is None else ProjectedPositions.of(table, attention)
    under_way = exchange.begin(hidden, plan.frames)
    arrived: tuple[torch.Tensor | None, torch.Tensor | None] | None = None
    for rows in row_slices(hidden, slice_rows):
        normed = norm(hidden[rows])
        query, key, value = attention.to_q(normed), attention.to_k(normed), attention.to_v(normed)
        if arrived is None:
            arrived = under_way.wait()
        before, after = (None if part is None else norm(part[rows]) for part in arrived)
        if before is not None or after is not None:
            key = _between(before, key, after, attention.to_k)
            value = _between(before, value, after, attention.to_v)
        attended = _attend(query, key, value, plan, attention, shifts)
        hidden[rows] += attention.to_out[0](attended)


def row_slices(hidden: torch.Tensor, rows: int) -> Iterator[slice]:
    """Cut the first dimension into slices of at most ``rows``."""
    for start in range(0, hidden.shape[0], rows):
        yield slice(start, start + rows)


def _between(
    before: torch.Tensor | None, own: torch.Tensor, after: torch.Tensor | None, project: nn.Module
) -> torch.Tensor:
    parts = [
        None if before is None else project(before),
        own,
        None if after is None else project(after),
    ]
    return torch.cat([part for part in parts if part is not None], dim=1)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: AttentionPlan,
    attention: Any,
    shifts: ProjectedPositions | None,
) -> torch.Tensor:
    """``[N, f, C]`` queries over ``[N, seen, C]`` keys and values, block by block."""
    if len(plan.blocks) == 1:
        return _attend_block(query, key, value, plan.blocks[0], attention, shifts)
    out = torch.empty_like(query)
    for block in plan.blocks:
        out[:, block.queries] = _attend_block(query, key, value, block, attention, shifts)
    return out


def _attend_block(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block: QueryBlock,
    attention: Any,
    shifts: ProjectedPositions | None,
) -> torch.Tensor:
    queries, keys, values = query[:, block.queries], _seen(key, block), _seen(value, block)
    if shifts is not None:
        assert block.positions is not None, "the plan was built without positions"
        of_queries, of_keys = block.positions
        queries = queries + shifts.query[of_queries]
        keys = keys + shifts.key[of_keys]
        values = values + shifts.value[of_keys]
    attended = F.scaled_dot_product_attention(
        _heads(queries, attention.heads),
        _heads(keys, attention.heads),
        _heads(values, attention.heads),
        attn_mask=block.mask,
        scale=attention.scale,
    )
    return attended.transpose(1, 2).flatten(2)


def _seen(states: torch.Tensor, block: QueryBlock) -> torch.Tensor:
    """Of ``[N, seen, C]`` the frames that a block sees, its run first."""
    run, others = states[:, block.run], block.others
    return run if others is None else torch.cat([run, states.index_select(1, others)], dim=1)


def _heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """``[N, f, heads * d]`` → ``[N, heads, f, d]``."""
    batch, frames, channels = projected.shape
    return projected.view(batch, frames, heads, channels // heads).transpose(1, 2)
