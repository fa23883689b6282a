"""ModelScope text-to-video 1.7B and its descendants, such as ZeroScope v2: plain `TextToVideoSDPipeline`s."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vinf_core.models.adapter import VideoModel
from vinf_core.models.locate import ModelFiles
from vinf_core.models.text_to_video import TextToVideoModel
from vinf_core.types import ModelLimits, Solver, TemporalScope

SCOPE = TemporalScope(local_window_frames=16, global_frames=16, phase_timestep=800, phase_bias=10.0)
"""As for VideoCrafter2, whose denoiser is the same (Video-Infinity, section 5.1)."""


def load(files: ModelFiles, options: Mapping[str, str], *, device: torch.device, dtype: torch.dtype) -> VideoModel:
    """Load it from a folder; see `TextToVideoModel.from_files`."""
    return TextToVideoModel.from_files(files, limits(files), device=device, dtype=dtype)


def limits(files: ModelFiles) -> ModelLimits:
    """Size and length it was trained on; steps and guidance are the pipeline's defaults."""
    return ModelLimits(
        name=files.card.name,
        default_width=files.card.width,
        default_height=files.card.height,
        min_width=64,
        max_width=1024,
        min_height=64,
        max_height=1024,
        size_multiple=64,
        default_frame_count=64,
        max_frame_count=65_536,
        trained_frame_count=files.card.frame_count,
        default_frame_rate=(files.card.frame_rate, 1),
        default_step_count=25,
        default_guidance_scale=9.0,
        default_solver=Solver.DPM_SOLVER_PP_2M,
        default_scope=SCOPE,
        max_prompt_chars=2000,
    )
