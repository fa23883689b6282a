"""Clips as the mesh has them, and as they are told outside: one length a rank.

Of the ranks of a clip all but the first have the length 0. Checkpoints, previews and the decoder's deal then work as
they always do with ranks whose clips are empty.
"""

from __future__ import annotations

from collections.abc import Sequence

from vinf_core.context.partition import clips_of
from vinf_core.distributed.topology import Mesh
from vinf_core.latent_frames import FrameGrid
from vinf_core.types import Clip


def clips_of_ranks(clips: Sequence[Clip], mesh: Mesh) -> tuple[Clip, ...]:
    """Give each clip to its leader, and nothing to the other ranks that work on it.

    Args:
        clips: those of the mesh, in order.
        mesh: of the world.

    Returns:
        One clip a rank, in rank order.
    """
    others = [0] * (mesh.clip_ranks - 1)
    return clips_of([count for clip in clips for count in (clip.count, *others)])


def clips_of_mesh(counts: Sequence[int], mesh: Mesh, grid: FrameGrid) -> tuple[Clip, ...] | None:
    """Find the clips of the mesh in lengths that were told outside.

    Args:
        counts: frames, one number a rank, in rank order.
        mesh: of the world.
        grid: which frames share a latent frame; clips are made of whole ones.

    Returns:
        None where the lengths are those of another mesh: a rank that leads no clip has frames, or one that leads a clip
        has none although there are latent frames enough.

    Raises:
        InvalidSpecError: a negative length.
    """
    clips_of(counts)  # refuses what is no length
    size = mesh.clip_ranks
    own = counts[::size]
    if sum(own) != sum(counts) or (0 in own and grid.latent_of(sum(own) - 1) + 1 >= len(own)):
        return None
    return clips_of(own)
