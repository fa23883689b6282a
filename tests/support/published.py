"""Tiny random models, saved in exactly the layouts in which the real ones are published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.support.tiny import FOLDER
from vinf_core.models.videocrafter2 import PUBLISHED_CLASS, VideoCrafterUNet

TEXT_DIM = 8
SIZES = {
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": TEXT_DIM,
    "attention_head_dim": 4,
}


def save_videocrafter2(folder: Path) -> None:
    """A folder with a bare denoiser, its configuration naming the class of its authors."""
    torch.manual_seed(3)
    _randomised(VideoCrafterUNet(**SIZES)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["_class_name"] = PUBLISHED_CLASS
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def save_modelscope(folder: Path) -> None:
    """A folder with a whole pipeline."""
    torch.manual_seed(4)
    _randomised(UNet3DConditionModel(**SIZES)).save_pretrained(folder / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=2048,
            hidden_size=TEXT_DIM,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=1,
        )
    ).save_pretrained(folder / "text_encoder")
    shutil.copytree(FOLDER / "tokenizer", folder / "tokenizer")
    # ModelScope's own (ali-vilab/text-to-video-ms-1.7b, scheduler/scheduler_config.json).
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "TextToVideoSDPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet3DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def _randomised(unet: UNet3DConditionModel) -> UNet3DConditionModel:
    """Give layers that begin as zeros random numbers too, so that nothing is an identity."""
    for parameter in unet.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return unet
