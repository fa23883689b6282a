"""The architectures that are measured with random weights, as diffusers' configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vinf_core.models.text_to_video import SCOPE
from vinf_core.types import ModelLimits, Solver


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A `TextToVideoSDPipeline` without its weights and its text encoder."""

    unet: dict[str, Any]
    """Arguments of `UNet3DConditionModel`."""
    vae: dict[str, Any]
    """Arguments of `AutoencoderKL`."""
    text_tokens: int
    limits: ModelLimits


def _limits(name: str, width: int, height: int) -> ModelLimits:
    return ModelLimits(
        name=name,
        default_width=width,
        default_height=height,
        min_width=64,
        max_width=4096,
        min_height=64,
        max_height=4096,
        size_multiple=64,
        default_frame_count=96,
        max_frame_count=100_000,
        trained_frame_count=16,
        default_frame_rate=(24, 1),
        default_step_count=30,
        default_guidance_scale=12.0,
        default_solver=Solver.DPM_SOLVER_PP_2M,
        default_scope=SCOPE,
        max_prompt_chars=1000,
    )


def _vae(channels: tuple[int, ...]) -> dict[str, Any]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": channels,
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
    }


ARCHITECTURES = {
    # 61 M parameters: deep enough to hold every kind of module, small enough for two CPU cores.
    "mid": Architecture(
        unet={
            "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
            "block_out_channels": (128, 256, 384),
            "layers_per_block": 1,
            "cross_attention_dim": 256,
            "attention_head_dim": 64,
        },
        vae=_vae((32, 64, 128, 128)),
        text_tokens=77,
        limits=_limits("mid", 128, 128),
    ),
    # VideoCrafter2 in diffusers' form, 1.41 B parameters. Its frame-rate embedding, two linear layers that run once a
    # call, is left out: the stock class has no place for it.
    "videocrafter2": Architecture(
        unet={
            "down_block_types": (*("CrossAttnDownBlock3D",) * 3, "DownBlock3D"),
            "up_block_types": ("UpBlock3D", *("CrossAttnUpBlock3D",) * 3),
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "cross_attention_dim": 1024,
            "attention_head_dim": 64,
        },
        vae=_vae((128, 256, 512, 512)),
        text_tokens=77,
        limits=_limits("videocrafter2", 512, 320),
    ),
}
