"""Checks a specification against a model's limits: the same numbers that the service shows its clients."""

from __future__ import annotations

from vinf_core.errors import InvalidSpecError
from vinf_core.latent_frames import FrameGrid
from vinf_core.types import GenerationSpec, ImageFrames, ModelLimits


def check_spec(spec: GenerationSpec, limits: ModelLimits) -> None:
    """Raise on everything a model cannot make, all at once.

    Raises:
        InvalidSpecError: names every field with its value and its range.
    """
    ranges = {
        "width": (limits.min_width, limits.max_width),
        "height": (limits.min_height, limits.max_height),
        "frame_count": (1, limits.max_frame_count),
        "step_count": (1, 1000),
    }
    wrong = [
        f"{name}: {getattr(spec, name)} is not in [{low}, {high}]"
        for name, (low, high) in ranges.items()
        if not low <= getattr(spec, name) <= high
    ]
    wrong += [
        f"{name}: {getattr(spec, name)} is not a multiple of {limits.size_multiple}"
        for name in ("width", "height")
        if getattr(spec, name) % limits.size_multiple
    ]
    try:
        FrameGrid(limits.frames_per_latent).latent_count(spec.frame_count)
    except InvalidSpecError as error:
        wrong.append(str(error))
    if spec.solver not in limits.solvers:
        wrong.append(f"solver: {spec.solver.value} is not one of {', '.join(limits.solvers)}")
    if spec.segments and not limits.takes_story:
        wrong.append(f"segments: a count of {len(spec.segments)} is not 0, the prompt is one for the whole video")
    if not 0 <= spec.scope.overlap_frames < max(1, limits.trained_frame_count):
        wrong.append(f"overlap_frames: {spec.scope.overlap_frames} is not in [0, {limits.trained_frame_count - 1}]")
    if not limits.min_images <= len(spec.images) <= limits.max_images:
        wrong.append(f"images: a count of {len(spec.images)} is not in [{limits.min_images}, {limits.max_images}]")
    edges = {ImageFrames.FIRST: (0,), ImageFrames.FIRST_AND_LAST: (0, spec.frame_count - 1)}.get(limits.image_frames)
    if edges is not None:
        wrong += [
            f"images[{index}]: frame {image.frame_index} is not in {sorted(set(edges))}"
            for index, image in enumerate(spec.images)
            if image.frame_index not in edges
        ]
    if wrong:
        raise InvalidSpecError("; ".join(wrong))
