"""What the engine asks of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from vinf_core.models.latent_scale import LatentScale
from vinf_core.models.preview_map import PreviewMap
from vinf_core.types import GenerationSpec, ModelLimits


@dataclass(frozen=True, slots=True)
class TemporalSites:
    """Names of the modules through which frames see each other."""

    convolutions: tuple[str, ...]
    """``TemporalConvLayer`` modules."""
    transformers: tuple[str, ...]
    """``TransformerTemporalModel`` modules, whose attentions know no positions."""
    motion_modules: tuple[str, ...] = ()
    """``AnimateDiffTransformer3D`` modules, whose attentions know absolute positions."""
    position_count: int = 0
    """Positions that they were trained with; 0: there are none of them."""


class VideoModel(Protocol):
    """A latent text-to-video model whose VAE decodes frame by frame."""

    @property
    def limits(self) -> ModelLimits:
        """Defaults and limits."""

    @property
    def unet(self) -> nn.Module:
        """The denoiser."""

    @property
    def temporal_sites(self) -> TemporalSites:
        """Its temporal modules."""

    @property
    def framewise_sites(self) -> tuple[str, ...]:
        """Names of the denoiser's large modules that treat every frame alone; none of them inside another."""

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The noise schedule the model was trained with, as diffusers stores it."""

    @property
    def latent_scale(self) -> LatentScale | None:
        """The scale of clean latents it was trained with; None: they were not scaled."""

    @property
    def preview_map(self) -> PreviewMap | None:
        """What its clean latents look like, on its device; None: nobody has fitted one, and there are no previews."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""

    @property
    def dtype(self) -> torch.dtype:
        """In what the model computes."""

    def begin(self, spec: GenerationSpec) -> None:
        """Take up what a generation is conditioned on besides its text, such as its frame rate or its images."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Size of one frame's latent, ``(C, h, w)``, for a picture in pixels."""

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        """Encode prompts to ``[len(prompts), tokens, dim]``."""

    def predict(self, latents: torch.Tensor, timestep: float, text: torch.Tensor) -> torch.Tensor:
        """Run the denoiser once.

        Args:
            latents: ``[B * f, C, h, w]``: the clip once for every one of B texts.
            timestep: training timestep, the same for all frames.
            text: ``[B, f or 1, tokens, dim]``: one a frame, or one for all of them.

        Returns:
            The model's prediction, ``[B * f, C, h, w]``.
        """

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode ``[n, C, h, w]`` to RGB ``[n, H, W, 3]``, float32, black 0, white 1, not clamped, in any layout."""
