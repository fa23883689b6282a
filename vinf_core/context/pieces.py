"""Clips and scenes: which frames a clip can see. Nothing reaches across a cut but global frames, if asked to.

Pure arithmetic, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vinf_core.types import Clip, TemporalScope

GlobalFrames = tuple[tuple[int, ...], ...]
"""For every scene the frames that its queries see besides their neighbours, ascending."""


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


def sampled_stretches(scenes: Sequence[range], scope: TemporalScope) -> tuple[range, ...]:
    """For every scene the frames that its global frames are a sample of: its own, or those of the whole video."""
    whole = range(scenes[-1].stop)
    return tuple(whole if scope.global_across_cuts else scene for scene in scenes)


def even_global_frames(scenes: Sequence[range], scope: TemporalScope) -> GlobalFrames:
    """The global frames of every scene, evenly spaced."""
    return tuple(global_frame_indices(stretch, scope.global_frames) for stretch in sampled_stretches(scenes, scope))


def halo_frames(clip: Clip, scenes: Sequence[range], reach: int) -> frozenset[int]:
    """Frames within ``reach`` of a clip's pieces, its own included; none for an empty clip."""
    return frozenset(frame for piece in pieces_of(clip, scenes) for frame in piece.within(reach))
