"""Positions for temporal attentions that know absolute ones, in videos of any length.

Such a model (AnimateDiff's motion modules) adds to every frame's states the row of a table at the frame's position, and
has only learnt the rows of the clips it was trained on. So positions count from the start of a window of that length;
neighbouring queries share one, as in FreeNoise (arXiv:2310.15169), whose stride is ours. What lies beyond the window
shares a few positions at either end of it, in order, as LongDiff groups them (arXiv:2503.18150).

Windows lie on a grid of the scene's frames: which position a frame has for a query does not depend on how the video is
cut into clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F

from vinf_core.context.pieces import Piece
from vinf_core.types import TemporalScope

STRIDE = 4
"""Frames from one window to the next; their queries share it."""

FAR_SHARE = 8
"""One in so many positions at either end is kept for the frames beyond the window where there are such."""


@dataclass(frozen=True, slots=True)
class PositionWindow:
    """Which position every frame has for some neighbouring queries."""

    start: int
    """The frame at position 0."""
    length: int
    """Positions that there are."""
    reach: range
    """All frames that the queries may see."""

    def positions(self, frames: torch.Tensor) -> torch.Tensor:
        """Positions of frames within reach, in ``[0, length)`` and ascending with the frames.

        Args:
            frames: int64 indices in the video.

        Returns:
            int64, of the same shape and on the same device.
        """
        positions = frames - self.start
        kept = max(1, self.length // FAR_SHARE)
        if self.reach.start < self.start:
            # What lies before the middle of the window, by its distance from it.
            far = self.start + kept - self.reach.start
            positions = torch.where(positions < kept, kept - _squeezed(kept - positions, far, kept), positions)
        end = self.start + self.length
        if self.reach.stop > end:
            last = self.length - kept - 1
            far = self.reach.stop - end + kept
            positions = torch.where(positions > last, last + _squeezed(positions - last, far, kept), positions)
        return positions


def windowed(
    piece: Piece, scope: TemporalScope, frame_count: int, length: int
) -> Iterator[tuple[Piece, PositionWindow]]:
    """Cut a piece where its queries' window changes.

    Args:
        piece: of a clip.
        scope: whether there are global frames, and how far neighbours are seen.
        frame_count: of the video.
        length: positions the model was trained with.
    """
    for group, window in window_groups(piece, scope, frame_count, length):
        own = range(max(group.frames.start, piece.frames.start), min(group.frames.stop, piece.frames.stop))
        if own:
            yield replace(piece, frames=own), window


def window_groups(
    piece: Piece, scope: TemporalScope, frame_count: int, length: int
) -> Iterator[tuple[Piece, PositionWindow]]:
    """Cut the scene of a piece into groups of queries that share a window, whatever part of it the piece is.

    Args:
        piece, scope, frame_count, length: see `windowed`.
    """
    scene = piece.scene
    has_globals = scope.global_frames > 0
    stretch = range(frame_count) if has_globals and scope.global_across_cuts else scene

    def start_of(frame: int) -> int:
        middle = scene.start + (frame - scene.start) // STRIDE * STRIDE + STRIDE // 2
        return max(stretch.start, min(middle - length // 2, stretch.stop - length))

    for start, members in groupby(scene, key=start_of):
        frames = list(members)
        group = replace(piece, frames=range(frames[0], frames[-1] + 1))
        reach = stretch if has_globals else group.within(scope.half_window)
        yield group, PositionWindow(start, length, reach)


@dataclass(frozen=True, slots=True)
class ProjectedPositions:
    """What a table of positions adds to queries, keys and values.

    Projections are linear: those of a frame's states and of its position add up, so that the states of a frame are
    projected once, whatever positions it has for different queries.
    """

    query: torch.Tensor
    """``[length, C]``"""
    key: torch.Tensor
    """``[length, C]``"""
    value: torch.Tensor
    """``[length, C]``"""

    @classmethod
    def of(cls, table: torch.Tensor, attention: Any) -> ProjectedPositions:
        """Project a table ``[length, C]`` as diffusers' ``Attention`` does, without biases: the states bring those."""
        return cls(*(F.linear(table, project.weight) for project in (attention.to_q, attention.to_k, attention.to_v)))


def _squeezed(distance: torch.Tensor, farthest: int, kept: int) -> torch.Tensor:
    """Distances 1 to ``farthest`` as 1 to ``kept``, rounded up."""
    return (distance * kept + farthest - 1).div(farthest, rounding_mode="floor")
