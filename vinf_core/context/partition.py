"""Which rank owns which frames, and which frames of others it needs to see. Pure arithmetic, the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence

from vinf_core.errors import InvalidSpecError
from vinf_core.types import Clip, TemporalScope


def partition(frame_count: int, world_size: int) -> tuple[Clip, ...]:
    """Cut a video into one contiguous clip a rank, as even as possible, the longer ones first.

    With fewer frames than ranks the last clips are empty.
    """
    short, longer = divmod(frame_count, world_size)
    return clips_of([short + (rank < longer) for rank in range(world_size)])


def clips_of(counts: Sequence[int]) -> tuple[Clip, ...]:
    """Turn clip lengths in rank order into clips.

    Raises:
        InvalidSpecError: a negative length.
    """
    clips = []
    start = 0
    for count in counts:
        if count < 0:
            raise InvalidSpecError(f"clip length: {count} is less than 0")
        clips.append(Clip(start, count))
        start += count
    return tuple(clips)


def global_frame_indices(frame_count: int, global_frames: int) -> tuple[int, ...]:
    """Sample the whole video evenly: ``floor((j + 1/2) F / G)``, each frame once even when F < G."""
    return tuple(sorted({(2 * j + 1) * frame_count // (2 * global_frames) for j in range(global_frames)}))


def halo_frames(clip: Clip, reach: int, frame_count: int) -> frozenset[int]:
    """Frames of the video within ``reach`` of a clip, the clip's own included; none for an empty clip."""
    if clip.count == 0:
        return frozenset()
    return frozenset(range(max(0, clip.start - reach), min(frame_count, clip.stop + reach)))


def attention_frames(clip: Clip, scope: TemporalScope, frame_count: int) -> frozenset[int]:
    """Frames that some query of the clip attends to: its halo and the global frames; none for an empty clip."""
    if clip.count == 0:
        return frozenset()
    return halo_frames(clip, scope.half_window, frame_count) | frozenset(
        global_frame_indices(frame_count, scope.global_frames)
    )
