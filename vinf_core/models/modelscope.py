"""ModelScope text-to-video 1.7B and its descendants, such as ZeroScope v2: plain `TextToVideoSDPipeline`s."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vinf_core.models.adapter import VideoModel
from vinf_core.models.locate import ModelFiles
from vinf_core.models.text_to_video import TextToVideoModel, limits_at_full_size
from vinf_core.types import ModelLimits


def load(files: ModelFiles, options: Mapping[str, str], *, device: torch.device, dtype: torch.dtype) -> VideoModel:
    """Load it from a folder; see `TextToVideoModel.from_files`."""
    return TextToVideoModel.from_files(files, limits(files), device=device, dtype=dtype)


def limits(files: ModelFiles) -> ModelLimits:
    """Steps and guidance are the pipeline's defaults."""
    return limits_at_full_size(files, step_count=25, guidance_scale=9.0)
