"""Which rank owns which frames. Pure arithmetic, the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence

from vinf_core.errors import InvalidSpecError
from vinf_core.types import Clip


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
