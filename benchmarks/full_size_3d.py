"""The published models with 3-D attention at full size: as outlines for counting, and with random weights on a device.

Transformers and VAEs are diffusers' classes with the configurations of the files on the hub (HunyuanVideo's and
SkyReels-V1's are the classes' defaults; alibaba-pai/EasyAnimateV5.1-12b-zh, and for 7b the depth that gives the size of
its file), text encoders transformers' (Llama 3 8B and CLIP-L of hunyuanvideo-community/HunyuanVideo; Qwen2-VL 7B).
Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLMagvit,
    EasyAnimateTransformer3DModel,
    HunyuanVideoTransformer3DModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from vinf_core.models import easyanimate, skyreels
from vinf_core.models.adapter import VideoModel
from vinf_core.models.catalogue import catalogue
from vinf_core.models.easyanimate import EasyAnimateModel
from vinf_core.models.hunyuan_text import TOKENS as HUNYUAN_TOKENS
from vinf_core.models.hunyuan_text import HunyuanText
from vinf_core.models.locate import ModelFiles
from vinf_core.models.qwen_text import TOKENS as QWEN_TOKENS
from vinf_core.models.skyreels import SkyReelsModel
from vinf_core.types import ModelLimits

_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7.0}

_EASYANIMATE = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "num_layers": 48,
    "mmdit_layers": 48,
    "text_embed_dim": 3584,
    "add_norm_text_encoder": True,
}


class RandomTexts(nn.Module):
    """The text encoders of a model as weights alone; what they say is random."""

    def __init__(self, encoders: tuple[nn.Module, ...], make: Callable[[int], torch.Tensor]) -> None:
        """Make one.

        Args:
            encoders: none where only the transformer is wanted.
            make: embeddings of so many texts.
        """
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self._make = make

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Embed texts."""
        return self._make(len(prompts))


@dataclass(frozen=True, kw_only=True, slots=True)
class FullSize3D:
    """One model's parts."""

    name: str
    """In the catalogue."""
    transformer: dict[str, Any]
    vae: dict[str, Any]
    is_toy: bool = False
    """Without text encoders."""

    @property
    def is_skyreels(self) -> bool:
        """Else it is an EasyAnimate."""
        return self.name.startswith("skyreels")

    @property
    def blocks(self) -> tuple[str, ...]:
        """Where the transformer's blocks are."""
        return skyreels.BLOCKS if self.is_skyreels else (easyanimate.BLOCKS,)

    def make_transformer(self) -> Any:
        """The transformer with the weights it begins with, on the device of the context."""
        return (HunyuanVideoTransformer3DModel if self.is_skyreels else EasyAnimateTransformer3DModel)(
            **self.transformer
        )

    def limits(self) -> ModelLimits:
        """What its adapter says that it takes."""
        files = ModelFiles(card=catalogue()[self.name], denoiser=Path(), base=Path())
        return skyreels.limits(files) if self.is_skyreels else easyanimate.limits(files, _FLOW)

    def outline(self, dtype: torch.dtype) -> VideoModel:
        """The model as ranks have it, on the meta device: every shape and no numbers."""
        device = torch.device("meta")
        with device:
            transformer = self.make_transformer()
        return self.around(transformer, device, dtype)

    def around(
        self, transformer: Any, device: torch.device, dtype: torch.dtype, *, with_texts: bool = True
    ) -> VideoModel:
        """The adapter around a transformer that is where it should be; VAE and text encoders are made here."""
        with device:
            vae = (AutoencoderKLHunyuanVideo if self.is_skyreels else AutoencoderKLMagvit)(**self.vae)
            encoders = self._text_encoders() if with_texts and not self.is_toy else ()
        texts = RandomTexts(encoders, self._texts(transformer.config, device, dtype))
        parts: dict[str, Any] = {
            "transformer": _settle(transformer, device, dtype) if device.type == "meta" else transformer,
            "vae": _settle(vae, device, dtype),
            "text_encoder": _settle(texts, device, dtype),
            "limits": self.limits(),
            "scheduler_config": _FLOW,
            "device": device,
            "dtype": dtype,
        }
        if self.is_skyreels:
            parts["vae"].enable_tiling()  # as the model's option has it by default
            return SkyReelsModel(**parts)
        return EasyAnimateModel(**parts, warm_up=None)

    def _texts(self, config: Any, device: torch.device, dtype: torch.dtype) -> Callable[[int], torch.Tensor]:
        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=device, dtype=dtype)

        def hunyuan(count: int) -> torch.Tensor:
            # Half of the tokens are padding, as behind a prompt of a few sentences.
            mask = (torch.arange(HUNYUAN_TOKENS, device=device) < HUNYUAN_TOKENS // 2).to(dtype).expand(count, -1)
            states = randn(count, HUNYUAN_TOKENS, config.text_embed_dim)
            return HunyuanText(states, mask, randn(count, config.pooled_projection_dim)).pack()

        return hunyuan if self.is_skyreels else lambda count: randn(count, QWEN_TOKENS, config.text_embed_dim)

    def _text_encoders(self) -> tuple[nn.Module, ...]:
        if not self.is_skyreels:
            return (Qwen2VLForConditionalGeneration(_qwen()),)
        llama = LlamaConfig(
            vocab_size=128_320,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
        )
        clip = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
        return LlamaModel(llama), CLIPTextModel(clip)


def _qwen() -> Qwen2VLConfig:
    text = {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    return Qwen2VLConfig(text_config=text, vision_config={"hidden_size": 3584})


def _settle(module: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a module, for inference."""
    # Not `module.to(...)`: diffusers' own warns about a conversion that is meant here.
    return nn.Module.to(module, device, dtype).eval().requires_grad_(False)


FULL_SIZE_3D = {
    model.name: model
    for model in (
        FullSize3D(name="skyreels-v1-t2v", transformer={}, vae={}),
        FullSize3D(name="skyreels-v1-i2v", transformer={"in_channels": 32}, vae={}),
        FullSize3D(
            name="easyanimate-v5.1-7b", transformer=_EASYANIMATE | {"num_layers": 36, "mmdit_layers": 18}, vae={}
        ),
        FullSize3D(name="easyanimate-v5.1-12b", transformer=_EASYANIMATE, vae={}),
    )
}
"""By name in the catalogue."""

_TOY_VAE = {"block_out_channels": (4, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}

TOYS_3D = {
    "toy-skyreels": FullSize3D(
        name="skyreels-v1-t2v",
        transformer={
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "mlp_ratio": 2.0,
            "text_embed_dim": 32,
            "pooled_projection_dim": 16,
            "rope_axes_dim": (4, 6, 6),
        },
        vae=_TOY_VAE,
        is_toy=True,
    ),
    "toy-easyanimate": FullSize3D(
        name="easyanimate-v5.1-7b",
        transformer=_EASYANIMATE
        | {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 3,
            "mmdit_layers": 2,
            "time_embed_dim": 16,
            "text_embed_dim": 32,
        },
        vae=_TOY_VAE,
        is_toy=True,
    ),
}
"""The same layouts in a few thousand parameters, to try commands on a CPU."""
