"""From a name to a model that can compute; a model's code and libraries are imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import torch

from vinf_core.errors import ModelNotFoundError
from vinf_core.models.adapter import VideoModel
from vinf_core.models.locate import ModelSource, locate


def load_model(
    source: ModelSource, *, options: Mapping[str, str] | None = None, device: torch.device, dtype: torch.dtype
) -> VideoModel:
    """Load a model onto ``device`` in ``dtype``.

    Raises:
        ModelNotFoundError: there is no such model, its files are missing or damaged, or its adapter cannot be imported.
        ConfigError: it has no such option.
    """
    files = locate(source)
    chosen = files.card.choose(options or {})
    try:
        adapter = import_module(files.card.adapter)
    except ImportError as error:
        raise ModelNotFoundError(f"model: {files.card.adapter}, which loads {files.card.name}: {error}") from error
    model: VideoModel = adapter.load(files, chosen, device=device, dtype=dtype)
    return model
