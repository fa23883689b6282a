"""The published models at full size, with random weights: as outlines for counting, and as folders that can be served.

Configurations are those of the files on the hub (adamdad/videocrafterv2_diffusers, ali-vilab/text-to-video-ms-1.7b,
cerspense/zeroscope_v2_576w, guoyww/animatediff-motion-adapter-v1-5-2 in stable-diffusion-v1-5). Nothing is downloaded.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel, UNetMotionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.architectures import ARCHITECTURES
from benchmarks.models import randomise_zeroed
from vinf_core.models.adapter import VideoModel
from vinf_core.models.catalogue import catalogue
from vinf_core.models.locate import ASSETS, ModelFiles
from vinf_core.models.text_to_video import TextToVideoModel
from vinf_core.models.videocrafter2 import PUBLISHED_CLASS, VideoCrafterUNet
from vinf_core.types import ModelLimits

TOKENIZER = ASSETS / "sprites" / "tokenizer"
"""The embedded model's: its words are fewer, a text is as many tokens long."""

_UNET, _VAE = ARCHITECTURES["videocrafter2"].unet, ARCHITECTURES["videocrafter2"].vae
_TEXT = {
    "vocab_size": 49_408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "max_position_embeddings": 77,
    "projection_dim": 512,
    "hidden_act": "gelu",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_MOTION_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "num_attention_heads": 8,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": True,
}
_SMALLER_TEXT = _TEXT | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FullSize:
    """One model's parts."""

    name: str
    """In the catalogue."""
    unet_class: Any
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]

    def parts(self) -> tuple[Any, Any, Any]:
        """UNet, VAE and text encoder with the weights they begin with, on the device of the context."""
        return self.unet_class(**self.unet), AutoencoderKL(**self.vae), CLIPTextModel(CLIPTextConfig(**self.text))

    def limits(self) -> ModelLimits:
        """What its adapter says that it takes."""
        card = catalogue()[self.name]
        limits: ModelLimits = import_module(card.adapter).limits(ModelFiles(card=card, denoiser=Path(), base=Path()))
        return limits

    def outline(self, dtype: torch.dtype) -> VideoModel:
        """The model as ranks have it, on the meta device: every shape and no numbers."""
        device = torch.device("meta")
        with device:
            unet, vae, text_encoder = self.parts()
        return TextToVideoModel(
            unet=unet,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True),
            scheduler_config=_SCHEDULE,
            limits=self.limits(),
            device=device,
            dtype=dtype,
        )

    def save(self, folder: Path, dtype: torch.dtype, *, seed: int = 0) -> None:
        """Write a pipeline as it is published, with random weights stored in ``dtype``.

        Layers that begin as zeros get random weights too, so that none is an identity.
        """
        torch.manual_seed(seed)
        unet, vae, text_encoder = self.parts()
        randomise_zeroed(unet)
        for part, name in ((unet, "unet"), (vae, "vae"), (text_encoder, "text_encoder")):
            nn.Module.to(part, dtype).save_pretrained(folder / name)
        if self.unet_class is VideoCrafterUNet:
            config = folder / "unet" / "config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": PUBLISHED_CLASS}))
        DDIMScheduler(**_SCHEDULE).save_pretrained(folder / "scheduler")
        shutil.copytree(TOKENIZER, folder / "tokenizer")
        (folder / "vinf.json").write_text(json.dumps({"model": self.name}))
        index = {
            "_class_name": "TextToVideoSDPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet3DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        (folder / "model_index.json").write_text(json.dumps(index))


FULL_SIZE = {
    model.name: model
    for model in (
        FullSize(name="videocrafter2", unet_class=VideoCrafterUNet, unet=_UNET, vae=_VAE, text=_TEXT),
        FullSize(name="zeroscope-v2", unet_class=UNet3DConditionModel, unet=_UNET, vae=_VAE, text=_TEXT),
        FullSize(name="modelscope", unet_class=UNet3DConditionModel, unet=_UNET, vae=_VAE, text=_TEXT),
        FullSize(name="animatediff-v2", unet_class=UNetMotionModel, unet=_MOTION_UNET, vae=_VAE, text=_SMALLER_TEXT),
    )
}
"""By name in the catalogue; another line makes another row of `vinf bench capacity`."""

TOY = FullSize(
    name="videocrafter2",
    unet_class=VideoCrafterUNet,
    unet={
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 4,
    },
    vae=_VAE | {"block_out_channels": (4, 8, 8, 8), "norm_num_groups": 4},
    text=_TEXT | {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
)
"""The same layout in a few thousand parameters, to try commands on a CPU."""
