"""The measured model: one set of weights, and as many copies of the modules around it as there are contenders."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from diffusers.models.resnet import TemporalConvLayer
from torch import nn
from transformers.utils.logging import disable_progress_bar

from benchmarks.architectures import ARCHITECTURES
from benchmarks.settings import Settings, SettingsError
from vinf_core.models.adapter import VideoModel
from vinf_core.models.locate import ModelSource, locate
from vinf_core.models.sprites import limits
from vinf_core.models.text_to_video import TextToVideoModel
from vinf_core.types import ModelLimits

SEED = 0

FILES = locate(ModelSource(model="sprites"))


def twin(model: VideoModel) -> VideoModel:
    """A copy of a model's modules over the very same parameters, for whoever replaces modules."""
    networks = [part for part in vars(model).values() if isinstance(part, nn.Module)]
    tensors = [tensor for part in networks for tensor in (*part.parameters(), *part.buffers())]
    shared = {id(tensor): tensor for tensor in tensors}
    return copy.deepcopy(model, shared)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What the benchmarks run."""

    model: VideoModel
    """As diffusers makes it: nothing is ever installed on this one."""
    vae: Any
    """diffusers' `AutoencoderKL`."""
    text_tokens: int
    width: int
    height: int

    @property
    def stock_unet(self) -> Any:
        """diffusers' own `UNet3DConditionModel`."""
        return self.model.unet

    def twin(self) -> VideoModel:
        """A copy of the model's modules over the very same parameters, for whoever replaces modules."""
        return twin(self.model)

    def inputs(self, frames: int, texts: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random latents ``[1, C, frames, h, w]`` and texts ``[texts, tokens, dim]``, the same on every rank."""
        generator = torch.Generator().manual_seed(SEED)
        channels, height, width = self.model.latent_shape(self.width, self.height)
        latents = torch.randn(1, channels, frames, height, width, generator=generator)
        text = torch.randn(texts, self.text_tokens, self.stock_unet.config.cross_attention_dim, generator=generator)
        return latents.to(self.model.device, self.model.dtype), text.to(self.model.device, self.model.dtype)


def build(settings: Settings, device: torch.device) -> Measured:
    """Load or make the model on ``device`` in the settings' dtype.

    Raises:
        SettingsError: the model cannot make pictures of that size.
    """
    disable_progress_bar()  # of loading weights, which is not our progress
    dtype: torch.dtype = getattr(torch, settings.dtype)
    width, height = picture_size(settings)
    torch.manual_seed(SEED)
    if settings.model in ARCHITECTURES:
        architecture = ARCHITECTURES[settings.model]
        with device:
            unet = UNet3DConditionModel(**architecture.unet)
            vae = AutoencoderKL(**architecture.vae)
        randomise_zeroed(unet)
        # Texts are random numbers here, as the weights are: there is nothing to encode them.
        model = TextToVideoModel(
            unet=unet,
            vae=vae,
            text_encoder=nn.Identity(),
            tokenizer=None,
            scheduler_config={},
            limits=architecture.limits,
            device=device,
            dtype=dtype,
        )
        text_tokens = architecture.text_tokens
    else:
        unet = UNet3DConditionModel.from_pretrained(FILES.denoiser, local_files_only=True)
        vae = AutoencoderKL.from_pretrained(FILES.base / "vae", local_files_only=True)
        model = TextToVideoModel.from_files(FILES, limits(FILES), device=device, dtype=dtype)
        text_tokens = model.encode_text([""]).shape[1]
        nn.Module.to(vae, device, dtype).eval().requires_grad_(False)
    return Measured(model=model, vae=vae, text_tokens=text_tokens, width=width, height=height)


def outline(settings: Settings) -> Any:
    """The model's `UNet3DConditionModel` on the meta device: every shape and no numbers, for counting."""
    with torch.device("meta"):
        if settings.model in ARCHITECTURES:
            return UNet3DConditionModel(**ARCHITECTURES[settings.model].unet)
        return UNet3DConditionModel.from_config(json.loads((FILES.denoiser / "config.json").read_text()))


def latent_size(settings: Settings) -> tuple[int, int]:
    """Height and width of a latent; VAEs of this family shrink pictures by eight."""
    width, height = picture_size(settings)
    return height // 8, width // 8


def picture_size(settings: Settings) -> tuple[int, int]:
    """Width and height in pixels, the model's own where the settings name none.

    Raises:
        SettingsError: not a multiple of what the model needs, or outside its limits.
    """
    model_limits = limits_of(settings)
    size = {}
    for name in ("width", "height"):
        value = getattr(settings, name) or getattr(model_limits, f"default_{name}")
        least, most = getattr(model_limits, f"min_{name}"), getattr(model_limits, f"max_{name}")
        if value % model_limits.size_multiple or not least <= value <= most:
            raise SettingsError(
                f"--{name}: {value} is not a multiple of {model_limits.size_multiple} in [{least}, {most}]"
            )
        size[name] = value
    return size["width"], size["height"]


def limits_of(settings: Settings) -> ModelLimits:
    """The model's limits and defaults, without loading it."""
    return ARCHITECTURES[settings.model].limits if settings.model in ARCHITECTURES else limits(FILES)


def text_tokens_of(settings: Settings) -> int:
    """Tokens of a text, without loading the model."""
    if settings.model in ARCHITECTURES:
        return ARCHITECTURES[settings.model].text_tokens
    tokens: int = json.loads((FILES.base / "tokenizer" / "tokenizer_config.json").read_text())["model_max_length"]
    return tokens


def randomise_zeroed(unet: nn.Module) -> None:
    """Give every temporal convolution's last layer, made of zeros, random weights: else it is an identity."""
    for module in unet.modules():
        if isinstance(module, TemporalConvLayer):
            nn.init.normal_(module.conv4[-1].weight, std=0.02)
