"""A specification against what the ranks' memory holds: `vinf.engine.v1.MemoryModel` says how much that is."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import partial

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2
from vinf_server.front.errors import SpecTooLargeError, Violation

CONTEXT_SHARE = 0.5
"""What a frame of another rank takes that a rank attends to, of what a frame of its own clip takes."""


def predicted_bytes(
    memory: link_pb2.MemoryModel,
    frame_count: int,
    width: int,
    height: int,
    context_frames: int = 0,
    *,
    frames_per_latent: int = 1,
    window_frames: int = 0,
) -> int:
    """What the rank with the longest clip holds at most, denoising or decoding; in bytes, rounded up.

    Args:
        memory: of the worst rank.
        frame_count: of the video.
        width: in pixels.
        height: in pixels.
        context_frames: that a query sees besides itself, local and global ones.
        frames_per_latent: of the model: clips are whole latent frames.
        window_frames: of an overlapping window, which one rank computes whole, however short its clip; 0: dual scope.
    """
    latent_count = math.ceil((frame_count - 1) / frames_per_latent) + 1
    clip_latents = math.ceil(latent_count * memory.largest_clip_share)
    if window_frames:
        window_latents = math.ceil((window_frames - 1) / frames_per_latent) + 1
        clip_latents, context_frames = max(clip_latents, min(latent_count, window_latents)), 0
    clip_frames = frames_per_latent * clip_latents
    held = clip_frames + CONTEXT_SHARE * min(frames_per_latent * latent_count - clip_frames, context_frames)
    denoising = memory.fixed_bytes + memory.bytes_per_frame_pixel * held * width * height
    decoding = memory.decode_fixed_bytes + memory.decode_bytes_per_pixel * width * height
    return math.ceil(max(denoising, decoding))


def largest_frame_count(
    memory: link_pb2.MemoryModel,
    limits: link_pb2.ModelLimits,
    width: int,
    height: int,
    context_frames: int = 0,
    *,
    window_frames: int = 0,
) -> int:
    """The most frames that model and memory allow at this size; 0: not even one, or the memory is not known."""
    if not memory.budget_bytes:
        return 0
    each = max(1, limits.frames_per_latent)
    frame_counts = range(1, limits.max_frame_count + 1, each)
    # The prediction never falls as frames are added. Searched and not solved for: it fits exactly when it is accepted.
    fitting = bisect_right(
        frame_counts,
        memory.budget_bytes,
        key=lambda frame_count: predicted_bytes(
            memory, frame_count, width, height, context_frames, frames_per_latent=each, window_frames=window_frames
        ),
    )
    return frame_counts[fitting - 1] if fitting else 0


def check_memory(
    spec: generation_pb2.GenerationSpec, memory: link_pb2.MemoryModel, limits: link_pb2.ModelLimits
) -> None:
    """Refuse what no rank could hold.

    Args:
        spec: with every default filled in; frame count, width and height are within their ranges.
        memory: of the worst rank; a budget of 0: not known, everything passes.
        limits: of the model.

    Raises:
        SpecTooLargeError: with the most frames that fit.
    """
    width, height, budget = spec.width, spec.height, memory.budget_bytes
    if not budget:
        return
    context_frames = spec.temporal_scope.local_window_frames + spec.temporal_scope.global_frames
    each = max(1, limits.frames_per_latent)
    window_frames = limits.trained_frame_count if spec.temporal_scope.overlap_frames else 0
    predicted = partial(predicted_bytes, frames_per_latent=each, window_frames=window_frames)
    needed = predicted(memory, spec.frame_count, width, height, context_frames)
    if needed <= budget:
        return
    most = largest_frame_count(memory, limits, width, height, context_frames, window_frames=window_frames)
    if most:
        field = "frame_count"
        problem = f"must be in [1, {most}] frames at {width} x {height} pixels, got {spec.frame_count}"
    else:
        field = "width" if width >= height else "height"
        problem = f"must be smaller: not even one frame of {width} x {height} pixels fits"
        needed = predicted(memory, 1, width, height, context_frames)
    raise SpecTooLargeError(
        Violation(f"spec.{field}", f"{problem}; a rank would need {_compare(needed, budget)}"),
        max_frame_count=most,
        predicted_bytes=needed,
        memory_budget_bytes=budget,
    )


def _compare(needed: int, budget: int) -> str:
    """Name both in one unit, rounded apart: what is too much never reads the same as what there is."""
    unit, name = (1 << 30, "GiB") if budget >= 1 << 30 else (1 << 20, "MiB")
    return (
        f"{math.ceil(100 * needed / unit) / 100:.2f} {name} of memory and has {budget * 100 // unit / 100:.2f} {name}"
    )
