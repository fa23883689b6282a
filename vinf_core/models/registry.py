"""Models by name; a model's code and libraries are imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module

import torch

from vinf_core.errors import ModelNotFoundError
from vinf_core.models.adapter import VideoModel

MODELS = {"sprites": "vinf_core.models.sprites"}
"""Modules with a function ``load(device, dtype)``, by the name users give."""


def load_model(name: str, device: torch.device, dtype: torch.dtype) -> VideoModel:
    """Load a model onto ``device`` in ``dtype``.

    Raises:
        ModelNotFoundError: unknown name, or its files are missing.
    """
    if name not in MODELS:
        raise ModelNotFoundError(f"model: {name!r} is not one of {', '.join(sorted(MODELS))}")
    model: VideoModel = import_module(MODELS[name]).load(device, dtype)
    return model
