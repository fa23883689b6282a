"""Tiny random models, saved in exactly the layouts in which the real ones are published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet3DConditionModel

from tests.support.tiny import FOLDER, randomise_zeroed, tiny_text_encoder, tiny_vae
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
    unet = VideoCrafterUNet(**SIZES)
    randomise_zeroed(unet)
    unet.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["_class_name"] = PUBLISHED_CLASS
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def save_modelscope(folder: Path) -> None:
    """A folder with a whole pipeline."""
    torch.manual_seed(4)
    unet = UNet3DConditionModel(**SIZES)
    randomise_zeroed(unet)
    unet.save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    tiny_text_encoder(TEXT_DIM).save_pretrained(folder / "text_encoder")
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
