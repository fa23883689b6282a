"""Checks a specification against a model's limits: the same numbers that the service shows its clients."""

from __future__ import annotations

from vinf_core.errors import InvalidSpecError
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
    most = limits.max_images
    if len(spec.images) > most:
        wrong.append(f"images: a count of {len(spec.images)} is not in [0, {most}]")
    edges = {ImageFrames.FIRST: (0,), ImageFrames.FIRST_AND_LAST: (0, spec.frame_count - 1)}.get(limits.image_frames)
    if edges is not None:
        wrong += [
            f"images[{index}]: frame {image.frame_index} is not in {sorted(set(edges))}"
            for index, image in enumerate(spec.images)
            if image.frame_index not in edges
        ]
    if wrong:
        raise InvalidSpecError("; ".join(wrong))
