"""From a name to a model that can compute; a model's code and libraries are imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import torch

from vinf_core.errors import ModelFilesError, ModelNotFoundError
from vinf_core.models.adapter import VideoModel
from vinf_core.models.locate import ModelSource, locate
from vinf_core.types import ModelLimits


def load_model(
    source: ModelSource, *, options: Mapping[str, str] | None = None, device: torch.device, dtype: torch.dtype
) -> VideoModel:
    """Load a model onto ``device`` in ``dtype``.

    Raises:
        ModelNotFoundError: there is no such model, or its adapter cannot be imported.
        ModelFilesError: its files are missing or damaged, or say what is not possible.
        ConfigError: it has no such option.
    """
    files = locate(source)
    chosen = files.card.choose(options or {})
    try:
        adapter = import_module(files.card.adapter)
    except ImportError as error:
        raise ModelNotFoundError(f"model: {files.card.adapter}, which loads {files.card.name}: {error}") from error
    model: VideoModel = adapter.load(files, chosen, device=device, dtype=dtype)
    _check_native_size(model.limits, files.denoiser)
    return model


def _check_native_size(limits: ModelLimits, folder: Path) -> None:
    """See that videos can have the size and the length that a folder says its model was trained in."""
    if limits.default_frame_count > limits.max_frame_count:
        raise ModelFilesError(
            f"model: {folder}: frame_count {limits.default_frame_count} is not in [1, {limits.max_frame_count}]"
        )
    for name in ("width", "height"):
        size, low, high = (getattr(limits, f"{end}_{name}") for end in ("default", "min", "max"))
        if not low <= size <= high or size % limits.size_multiple:
            raise ModelFilesError(
                f"model: {folder}: {name} {size} is not a multiple of {limits.size_multiple} in [{low}, {high}]"
            )
