"""The dual scope as a mask: which key frames a query frame sees, and how much each phase favours them.

Video-Infinity, sections 4.2 and 5.1, made exact: frames outside the video are never keys; a frame that is both a
neighbour and a global frame is one key, with the larger of the two biases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vinf_core.context.partition import global_frame_indices
from vinf_core.types import TemporalScope


def scope_mask(
    queries: Sequence[int], keys: Sequence[int], scope: TemporalScope, frame_count: int, *, global_phase: bool
) -> torch.Tensor:
    """Build the additive attention mask of one phase.

    Args:
        queries: global indices of the query frames.
        keys: global indices of the key frames, each once; every query's own frame must be among them.
        scope: window, global frames and bias.
        frame_count: frames of the video.
        global_phase: True while global frames are favoured (high noise), False while neighbours are.

    Returns:
        float32 ``[len(queries), len(keys)]`` of logits: minus infinity where a query must not look.
    """
    query = torch.tensor(list(queries), dtype=torch.int32)[:, None]
    key = torch.tensor(list(keys), dtype=torch.int32)[None, :]
    sampled = set(global_frame_indices(frame_count, scope.global_frames))
    is_global = torch.tensor([k in sampled for k in keys], dtype=torch.bool)[None, :].expand(len(queries), -1)
    is_local = (query - key).abs() <= scope.half_window
    favoured = is_global if global_phase else is_local
    mask = torch.where(favoured, scope.phase_bias, 0.0).to(torch.float32)
    return mask.masked_fill(~(is_local | is_global), float("-inf"))
