"""The embedded model, for tests of what goes on around it."""

from __future__ import annotations

import torch

from vinf_core.models.adapter import VideoModel
from vinf_core.models.locate import ModelSource
from vinf_core.models.registry import load_model


def load_sprites(device: torch.device | str = "cpu") -> VideoModel:
    """Load it in float32."""
    return load_model(ModelSource(model="sprites"), device=torch.device(device), dtype=torch.float32)
