"""Attention planned as blocks of queries, so that no score is computed for frames that lie far apart.

A block of neighbouring queries sees one run of neighbouring frames and the global frames outside that run: its scores
are ``[q, q + window + globals]`` however long the video is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from vinf_core.context.pieces import GlobalFrames, Piece, even_global_frames, pieces_of
from vinf_core.context.scope import Phase, scope_mask
from vinf_core.distributed.exchange import FramePlan
from vinf_core.types import Clip, TemporalScope

QUERY_BLOCK = 32
"""Queries a block holds at most: few scores beyond the window, yet few calls of the kernel. Measured on a CPU."""

SINGLE_BLOCK = 96
"""Pieces of at most so many frames are one block: a few more scores cost less than more calls. Measured on a CPU."""


KEPT_BYTES = 64 * 2**20
"""Most that a phase keeps of masks and indices; what goes beyond is made anew in every attention. Blocks in the middle
of a clip share theirs, so that only windows of thousands of frames come to that."""


@dataclass(frozen=True, slots=True)
class _Sight:
    """What all queries of a piece have in common."""

    scope: TemporalScope
    phase: Phase
    scene: range
    sampled: tuple[int, ...]
    """Global frames that they see, ascending."""
    sampled_frames: torch.Tensor
    """The same, on the device."""
    sampled_places: torch.Tensor
    """Where they lie among the frames that the clip sees."""
    dtype: torch.dtype
    """Of the masks."""


class QueryBlock:
    """Some queries of a clip and the keys they see: a run of neighbouring frames, and the global frames outside it."""

    def __init__(self, sight: _Sight, frames: range, run_frames: range, queries: slice, run: slice) -> None:
        """Plan a block.

        Args:
            sight: of its piece.
            frames: the queries, as frames of the video.
            run_frames: neighbouring key frames, as frames of the video.
            queries: the queries, of the clip's own frames.
            run: neighbouring key frames, of the frames the clip sees.
        """
        self.queries = queries
        self.run = run
        self._sight = sight
        self._frames = frames
        self._run_frames = run_frames
        # Global frames inside the run are no further keys.
        self._inside = slice(bisect_left(sight.sampled, run_frames.start), bisect_left(sight.sampled, run_frames.stop))
        if not run_frames:
            self._inside = slice(0, 0)
        self._others_count = len(sight.sampled) - (self._inside.stop - self._inside.start)
        self._is_uniform = self._sees_all_alike()
        self._others: torch.Tensor | None = None
        self._mask: torch.Tensor | None = None

    @property
    def others(self) -> torch.Tensor | None:
        """Further key frames, as an index into the frames the clip sees; None when there are none."""
        if not self._others_count:
            return None
        return self._outside(self._sight.sampled_places) if self._others is None else self._others

    @property
    def mask(self) -> torch.Tensor | None:
        """``[queries, keys]`` logits, the run first; None when every query sees every key alike."""
        if self._is_uniform:
            return None
        return self._make_mask() if self._mask is None else self._mask

    def keep(self, kept: dict[object, torch.Tensor], room: int) -> int:
        """Make mask and index once for all steps, or take over those of another block; return the bytes that it took.

        Args:
            kept: by what they follow from; of one phase and scene.
            room: bytes that there are; with too few, nothing is kept.
        """
        sight = self._sight
        start, run = self._frames.start, self._run_frames
        inside = tuple(frame - start for frame in sight.sampled[self._inside])
        shape = (len(self._frames), run.start - start, len(run), inside, self._others_count)
        outside = (self._inside.start, self._inside.stop)
        keys = len(run) + self._others_count
        wanted = 0
        if not self._is_uniform and shape not in kept:
            wanted += len(self._frames) * keys * sight.dtype.itemsize
        if self._others_count and outside not in kept:
            wanted += self._others_count * sight.sampled_places.element_size()
        if wanted > room:
            return 0
        if not self._is_uniform:
            self._mask = kept[shape] if shape in kept else kept.setdefault(shape, self._make_mask())
        if self._others_count:
            self._others = (
                kept[outside] if outside in kept else kept.setdefault(outside, self._outside(sight.sampled_places))
            )
        return wanted

    def _outside(self, sampled: torch.Tensor) -> torch.Tensor:
        return torch.cat([sampled[: self._inside.start], sampled[self._inside.stop :]])

    def _make_mask(self) -> torch.Tensor:
        sight = self._sight
        run = torch.arange(self._run_frames.start, self._run_frames.stop, device=sight.sampled_frames.device)
        keys = torch.cat([run, self._outside(sight.sampled_frames)])
        mask = scope_mask(self._frames, keys, sight.scope, sight.sampled_frames, sight.phase, sight.scene)
        return mask.to(sight.dtype)

    def _sees_all_alike(self) -> bool:
        run, half, phase = self._run_frames, self._sight.scope.half_window, self._sight.phase
        if not run:
            return True
        if run.start < self._frames[-1] - half or run[-1] > self._frames.start + half:
            return False
        if phase.favoured_only or not self._sight.scope.phase_bias:
            return True
        inside = self._inside.stop - self._inside.start
        return not self._others_count and (not phase.favours_global or inside in (0, len(run)))


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
        global_frames: GlobalFrames | None = None,
    ) -> AttentionPlan:
        """Plan a phase for ``rank``.

        Args:
            clips, rank, scenes, scope, dtype, device: see `Layout.build`.
            phase: what its steps favour.
            global_frames: other than the evenly spaced ones.
        """
        chosen = even_global_frames(scenes, scope) if global_frames is None else global_frames
        needs = tuple(
            frozenset(
                frame
                for piece in pieces_of(clip, scenes)
                for frame in (*_run(piece, scope, phase), *_others(piece, phase, chosen))
            )
            for clip in clips
        )
        frames = FramePlan.build(clips, needs, rank)
        place = {frame: index for index, frame in enumerate(frames.frames)}
        blocks = []
        room = KEPT_BYTES
        for piece in pieces_of(clips[rank], scenes):
            sampled = _others(piece, phase, chosen)
            sight = _Sight(
                scope=scope,
                phase=phase,
                scene=piece.scene,
                sampled=sampled,
                sampled_frames=torch.tensor(sampled, dtype=torch.int64, device=device),
                sampled_places=torch.tensor([place[frame] for frame in sampled], dtype=torch.int64, device=device),
                dtype=dtype,
            )
            kept: dict[object, torch.Tensor] = {}
            for part in _parts(piece):
                run = _run(part, scope, phase)
                start = part.frames.start - clips[rank].start
                block = QueryBlock(
                    sight,
                    part.frames,
                    run,
                    queries=slice(start, start + len(part.frames)),
                    run=slice(place[run.start], place[run.start] + len(run)) if run else slice(0, 0),
                )
                room -= block.keep(kept, room)
                blocks.append(block)
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


def _others(piece: Piece, phase: Phase, global_frames: GlobalFrames) -> tuple[int, ...]:
    """The global frames that queries of a piece see."""
    if phase.favoured_only and not phase.favours_global:
        return ()
    return global_frames[piece.scene_index]
