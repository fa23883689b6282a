"""A tiny text-to-video model with random weights: every kind of temporal site, in a few thousand parameters."""

from __future__ import annotations

import json

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from vinf_core.models.locate import ASSETS
from vinf_core.models.preview_map import PreviewMap
from vinf_core.models.text_to_video import TextToVideoModel
from vinf_core.types import ModelLimits, Solver, TemporalScope

TEXT_DIM = 12
SOLVERS = (Solver.DDIM, Solver.DPM_SOLVER_PP_2M)
"""Those of models that predict noise."""
FOLDER = ASSETS / "sprites"


def tiny_unet(dtype: torch.dtype = torch.float64) -> UNet3DConditionModel:
    """A UNet of three levels whose zero-initialised layers are random too, so that nothing is an identity."""
    torch.manual_seed(1)
    unet = UNet3DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=TEXT_DIM,
        attention_head_dim=4,
    )
    randomise_zeroed(unet)
    return torch.nn.Module.to(unet, dtype).eval().requires_grad_(False)


def randomise_zeroed(unet: torch.nn.Module) -> None:
    """Give layers that begin as zeros random numbers too, so that nothing is an identity."""
    for parameter in unet.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)


def tiny_vae() -> AutoencoderKL:
    """An autoencoder that shrinks pictures by eight, with random weights."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def tiny_text_encoder(dim: int) -> CLIPTextModel:
    """A text encoder for the embedded model's tokenizer, with random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=2048,
            hidden_size=dim,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def tiny_limits() -> ModelLimits:
    """Limits wide enough for every test."""
    return ModelLimits(
        name="tiny",
        default_width=32,
        default_height=32,
        min_width=16,
        max_width=64,
        min_height=16,
        max_height=64,
        size_multiple=16,
        default_frame_count=8,
        max_frame_count=1000,
        trained_frame_count=16,
        default_frame_rate=(8, 1),
        default_step_count=4,
        default_guidance_scale=3.0,
        default_solver=Solver.DDIM,
        default_scope=TemporalScope(local_window_frames=4, global_frames=3),
        max_prompt_chars=100,
    )


def tiny_model(dtype: torch.dtype = torch.float64) -> TextToVideoModel:
    """The whole adapter around `tiny_unet`; the tokenizer is the embedded model's."""
    torch.manual_seed(2)
    vae, text_encoder = tiny_vae(), tiny_text_encoder(TEXT_DIM)
    scheduler_config = json.loads((FOLDER / "scheduler" / "scheduler_config.json").read_text())
    return TextToVideoModel(
        unet=tiny_unet(dtype),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"),
        scheduler_config=scheduler_config,
        limits=tiny_limits(),
        preview_map=PreviewMap(torch.randn(3, 4), torch.randn(3, 4), torch.full((3,), 0.5)),
        dtype=dtype,
    )
