"""What a generation takes of a rank's memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryModel:
    """Predicts what the worst rank of the group holds for a generation, so that what does not fit is never started.

    F frames of W x H pixels fit when both
    ``fixed_bytes + bytes_per_frame_pixel * ceil(F * largest_clip_share) * W * H`` and
    ``decode_fixed_bytes + decode_bytes_per_pixel * W * H`` are at most ``budget_bytes``.
    """

    budget_bytes: int
    """Bytes that a rank may hold; 0: not known, and nothing is refused."""

    fixed_bytes: int
    """Bytes held while denoising whatever the size: weights, buffers."""

    bytes_per_frame_pixel: float
    """Bytes held besides for each pixel of each frame of the clip, in the cheapest way a step can be run: one half of
    the guidance at a time."""

    decode_fixed_bytes: int
    """Bytes held while decoding whatever the size."""

    decode_bytes_per_pixel: float
    """Bytes held besides for each pixel of a frame; a rank decodes one slice of frames at a time."""

    largest_clip_share: float
    """The longest clip's share of the video's frames, in (0, 1]."""
