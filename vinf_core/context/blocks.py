"""Attention planned as blocks of queries, so that no score is computed for frames that lie far apart.

A block of neighbouring queries sees one run of neighbouring frames and the global frames outside that run: its scores
are ``[q, q + window + globals]`` however long the video is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from vinf_core.context.pieces import Piece, global_frames_of, pieces_of
from vinf_core.context.scope import Phase, scope_mask
from vinf_core.distributed.exchange import FramePlan
from vinf_core.types import Clip, TemporalScope

QUERY_BLOCK = 32
"""Queries a block holds at most: few scores beyond the window, yet few calls of the kernel. Measured on a CPU."""

SINGLE_BLOCK = 96
"""Pieces of at most so many frames are one block: a few more scores cost less than more calls. Measured on a CPU."""


@dataclass(frozen=True, slots=True)
class QueryBlock:
    """Some queries of a clip and the keys they see."""

    queries: slice
    """Of the clip's own frames."""
    run: slice
    """Neighbouring key frames, of the frames the clip sees."""
    others: torch.Tensor | None
    """Further key frames, as an index into the frames the clip sees; None when there are none."""
    mask: torch.Tensor | None
    """``[queries, keys]`` logits, the run first; None when every query sees every key alike."""


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What one phase exchanges and computes."""

    frames: FramePlan
    blocks: tuple[QueryBlock, ...]

    @classmethod
    def build(
        cls,
        clips: tuple[Clip, ...],
        rank: int,
        scenes: tuple[range, ...],
        scope: TemporalScope,
        phase: Phase,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> AttentionPlan:
        """Plan a phase for ``rank``; masks are made in ``dtype`` on ``device``."""
        frame_count = clips[-1].stop
        needs = tuple(
            frozenset(
                frame
                for piece in pieces_of(clip, scenes)
                for frame in (*_run(piece, scope, phase), *_others(piece, scope, phase, frame_count))
            )
            for clip in clips
        )
        frames = FramePlan.build(clips, needs, rank)
        place = {frame: index for index, frame in enumerate(frames.frames)}
        blocks = []
        for piece in pieces_of(clips[rank], scenes):
            sampled = frozenset(global_frames_of(piece, scope, frame_count))
            for part in _parts(piece):
                run = _run(part, scope, phase)
                others = [frame for frame in _others(part, scope, phase, frame_count) if frame not in run]
                mask = scope_mask(part.frames, [*run, *others], scope, sampled, phase, piece.scene)
                start = part.frames.start - clips[rank].start
                blocks.append(
                    QueryBlock(
                        queries=slice(start, start + len(part.frames)),
                        run=slice(place[run.start], place[run.start] + len(run)) if run else slice(0, 0),
                        others=torch.tensor([place[frame] for frame in others], device=device) if others else None,
                        mask=mask.to(device, dtype) if bool((mask != mask[0, 0]).any()) else None,
                    )
                )
        return cls(frames=frames, blocks=tuple(blocks))


def _parts(piece: Piece) -> Sequence[Piece]:
    """Cut a piece into blocks of nearly equal length."""
    if len(piece.frames) <= SINGLE_BLOCK:
        return [piece]
    count = -(-len(piece.frames) // QUERY_BLOCK)
    edges = [piece.frames.start + len(piece.frames) * index // count for index in range(count + 1)]
    return [Piece(piece.scene_index, piece.scene, range(start, stop)) for start, stop in pairwise(edges)]


def _run(piece: Piece, scope: TemporalScope, phase: Phase) -> range:
    """The neighbours that queries of a piece see."""
    if phase.favoured_only and phase.favours_global:
        return range(0)
    return piece.within(scope.half_window)


def _others(piece: Piece, scope: TemporalScope, phase: Phase, frame_count: int) -> tuple[int, ...]:
    """The global frames that queries of a piece see."""
    if phase.favoured_only and not phase.favours_global:
        return ()
    return global_frames_of(piece, scope, frame_count)
