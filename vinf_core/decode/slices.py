"""Which rank decodes which frames: slices at fixed frame multiples, dealt in turn.

All ranks decode the frames that are due next, so frames leave in order at N times one rank's rate. The slices do not
depend on the number of ranks: a frame is always decoded in the same company, to the same bits.
"""

from __future__ import annotations

SLICE_FRAMES = 4
"""Small enough that the first frame comes early and memory stays low, large enough to keep the decoder busy."""


def slice_owners(frame_count: int, world_size: int) -> tuple[int, ...]:
    """Name the rank that decodes each frame: slice k belongs to rank k modulo the number of ranks."""
    return tuple(frame // SLICE_FRAMES % world_size for frame in range(frame_count))


def round_count(frame_count: int, world_size: int) -> int:
    """Rounds in which every rank decodes one slice at most."""
    return -(-frame_count // (SLICE_FRAMES * world_size))


def first_round(first_frame: int, world_size: int) -> int:
    """The round in which the slice that holds a frame is decoded."""
    return first_frame // (SLICE_FRAMES * world_size)


def slice_of(round_index: int, rank: int, frame_count: int, world_size: int) -> range:
    """Frames that ``rank`` decodes in a round; empty at the end of the video."""
    start = (round_index * world_size + rank) * SLICE_FRAMES
    return range(min(start, frame_count), min(start + SLICE_FRAMES, frame_count))
