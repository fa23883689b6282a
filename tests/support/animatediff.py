"""Tiny AnimateDiff models with random weights: the denoiser alone, and folders as the real ones are published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    DDIMScheduler,
    MotionAdapter,
    PNDMScheduler,
    UNet2DConditionModel,
    UNetMotionModel,
)

from tests.support.published import TEXT_DIM as PUBLISHED_TEXT_DIM
from tests.support.published import save_modelscope
from tests.support.tiny import TEXT_DIM

CHANNELS = (8, 16)
LAYERS = 1

OLD_SETTINGS = {"motion_activation_fn": "geglu", "motion_attention_bias": False, "motion_cross_attention_dim": None}
"""In the published configuration of v1-5-2, and ignored by diffusers since."""


def tiny_adapter(**options: Any) -> MotionAdapter:
    """Motion modules for `tiny_stable_diffusion`; layers that begin as zeros are random too."""
    adapter = MotionAdapter(
        **{
            "block_out_channels": CHANNELS,
            "motion_layers_per_block": LAYERS,
            "motion_num_attention_heads": 2,
            "motion_norm_num_groups": 4,
            "motion_max_seq_length": 24,
        }
        | options
    )
    for parameter in adapter.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return adapter


def tiny_stable_diffusion(text_dim: int = TEXT_DIM, **options: Any) -> UNet2DConditionModel:
    """A denoiser of single pictures with the layers of Stable Diffusion 1.5."""
    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": CHANNELS,
            "layers_per_block": LAYERS,
            "norm_num_groups": 4,
            "cross_attention_dim": text_dim,
            "attention_head_dim": 1,
        }
        | options
    )


def tiny_motion_unet(dtype: torch.dtype = torch.float64) -> UNetMotionModel:
    """Both in one, as diffusers puts them together."""
    torch.manual_seed(6)
    unet = UNetMotionModel.from_unet2d(tiny_stable_diffusion(), tiny_adapter())
    return torch.nn.Module.to(unet, dtype).eval().requires_grad_(False)


def save_adapter(folder: Path, **options: Any) -> None:
    """A folder with a motion adapter alone."""
    torch.manual_seed(7)
    tiny_adapter(**options).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | OLD_SETTINGS
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def save_stable_diffusion(folder: Path, **options: Any) -> None:
    """A folder with a whole pipeline for single pictures; its schedule is not the one of motion modules."""
    save_modelscope(folder)
    shutil.rmtree(folder / "unet")
    shutil.rmtree(folder / "scheduler")
    torch.manual_seed(8)
    tiny_stable_diffusion(PUBLISHED_TEXT_DIM, **options).save_pretrained(folder / "unet")
    # Stable Diffusion 1.5's own (stable-diffusion-v1-5/stable-diffusion-v1-5, scheduler/scheduler_config.json).
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def stock_pipeline(adapter: Path, base: Path) -> AnimateDiffPipeline:
    """Both folders as diffusers loads them, with the schedule its documentation asks for."""
    pipeline = AnimateDiffPipeline.from_pretrained(
        base, motion_adapter=MotionAdapter.from_pretrained(adapter, local_files_only=True), local_files_only=True
    )
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, beta_schedule="linear", clip_sample=False, steps_offset=1
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
