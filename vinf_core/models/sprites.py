"""The embedded model: a small text-to-video diffusion model of moving sprites, trained in this repository."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from vinf_core.models.adapter import VideoModel
from vinf_core.models.locate import ModelFiles
from vinf_core.models.preview_map import PreviewMap
from vinf_core.models.text_to_video import TextToVideoModel
from vinf_core.types import ModelLimits, Solver, TemporalScope

DEFAULT_SCOPE = TemporalScope(local_window_frames=16, global_frames=8)
"""Chosen by measurement: see training/sprites/README.md."""

SOLVERS = {"ddim": Solver.DDIM, "dpmsolver++": Solver.DPM_SOLVER_PP_2M}


def load(files: ModelFiles, options: Mapping[str, str], *, device: torch.device, dtype: torch.dtype) -> VideoModel:
    """Load the embedded weights; stock diffusers loads them from the same folder."""
    preview_map = PreviewMap.from_file(files.base / "preview.json")
    return TextToVideoModel.from_files(files, limits(files), preview_map=preview_map, device=device, dtype=dtype)


def limits(files: ModelFiles) -> ModelLimits:
    """What the model takes; the defaults that depend on training stand beside the weights in ``vinf.json``."""
    facts = json.loads((files.base / "vinf.json").read_text())
    vocabulary = json.loads((files.base / "vocabulary.json").read_text())
    return ModelLimits(
        name="sprites",
        default_width=64,
        default_height=64,
        min_width=32,
        max_width=128,
        min_height=32,
        max_height=128,
        size_multiple=16,
        default_frame_count=48,
        max_frame_count=65_536,
        trained_frame_count=facts["trained_frame_count"],
        default_frame_rate=(facts["frame_rate"], 1),
        default_step_count=facts["default_steps"],
        default_guidance_scale=facts["default_guidance_scale"],
        default_solver=SOLVERS[facts["default_solver"]],
        default_scope=DEFAULT_SCOPE,
        max_prompt_chars=200,
        max_prompt_words=14,
        vocabulary=tuple(vocabulary),
    )
