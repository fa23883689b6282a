"""The dual scope as a mask: which key frames a query frame sees, and how much each phase favours them.

Video-Infinity, sections 4.2 and 5.1, made exact: frames outside the video are never keys; a frame that is both a
neighbour and a global frame is one key, with the larger of the two biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vinf_core.types import TemporalScope


@dataclass(frozen=True, slots=True)
class Phase:
    """Which of the two kinds of context a step favours, and whether it sees the other kind at all."""

    favours_global: bool
    favoured_only: bool = False
    """Leave the other kind out instead of damping it by the scope's bias; a query then sees no frame of it."""


def scope_mask(
    queries: range,
    keys: torch.Tensor,
    scope: TemporalScope,
    sampled: torch.Tensor,
    phase: Phase,
    scene: range | None = None,
) -> torch.Tensor:
    """Build the additive attention mask of one phase, on the device of the keys; nothing waits for a GPU.

    Args:
        queries: global indices of the query frames, all of one scene.
        keys: int64 global indices of the key frames, each once, of that scene or sampled; every query must see one.
        scope: window and bias.
        sampled: int64 indices of the global frames, ascending.
        phase: what the step favours.
        scene: of the queries: a frame of another scene is nobody's neighbour, however near; None: all are of one.

    Returns:
        float32 ``[len(queries), len(keys)]`` of logits: minus infinity where a query must not look.
    """
    query = torch.arange(queries.start, queries.stop, device=keys.device)[:, None]
    is_local = (query - keys).abs() <= scope.half_window
    if scene is not None:
        is_local = is_local & (keys >= scene.start) & (keys < scene.stop)
    is_global = torch.zeros_like(is_local)
    if len(sampled):
        place = torch.searchsorted(sampled, keys).clamp_max(len(sampled) - 1)
        is_global = (sampled[place] == keys).expand_as(is_local)
    favoured = is_global if phase.favours_global else is_local
    visible = favoured if phase.favoured_only else is_local | is_global
    # One bias for all visible keys moves nothing.
    bias = 0.0 if phase.favoured_only else scope.phase_bias
    mask = torch.where(favoured, bias, 0.0).to(torch.float32)
    return mask.masked_fill(~visible, float("-inf"))
