"""Clips and scenes: which frames a clip can see. Nothing reaches across a cut but global frames, if asked to.

Pure arithmetic, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vinf_core.types import Clip, TemporalScope


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a clip that lies in one scene; in a video without cuts a clip is one piece."""

    scene_index: int
    scene: range
    frames: range

    def within(self, reach: int) -> range:
        """The scene's frames at most ``reach`` away from the piece, its own included."""
        return range(
            max(self.scene.start, self.frames.start - reach),
            min(self.scene.stop, self.frames.stop + reach),
        )


def pieces_of(clip: Clip, scenes: Sequence[range]) -> tuple[Piece, ...]:
    """Cut a clip where the video is cut; an empty clip has no pieces."""
    pieces = []
    for index, scene in enumerate(scenes):
        frames = range(max(clip.start, scene.start), min(clip.stop, scene.stop))
        if frames:
            pieces.append(Piece(index, scene, frames))
    return tuple(pieces)


def global_frame_indices(frames: range, global_frames: int) -> tuple[int, ...]:
    """Sample a stretch of F frames evenly: ``floor((j + 1/2) F / G)`` from its start, each once even when F < G."""
    count = len(frames)
    return tuple(sorted({frames.start + (2 * j + 1) * count // (2 * global_frames) for j in range(global_frames)}))


def global_frames_of(piece: Piece, scope: TemporalScope, frame_count: int) -> tuple[int, ...]:
    """The frames that every query of a piece sees besides its neighbours: a sample of its scene, or of the video."""
    stretch = range(frame_count) if scope.global_across_cuts else piece.scene
    return global_frame_indices(stretch, scope.global_frames)


def halo_frames(clip: Clip, scenes: Sequence[range], reach: int) -> frozenset[int]:
    """Frames within ``reach`` of a clip's pieces, its own included; none for an empty clip."""
    return frozenset(frame for piece in pieces_of(clip, scenes) for frame in piece.within(reach))
