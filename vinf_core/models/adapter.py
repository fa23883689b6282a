"""What the engine asks of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from vinf_core.models.bounded_cache import BoundedCache
from vinf_core.models.latent_scale import LatentScale
from vinf_core.models.preview_map import PreviewMap
from vinf_core.models.temporal_decoder import TemporalDecoder
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
    """Positions that motion modules and joint attentions were trained with, in latent frames; 0: there are none."""
    joint_attentions: tuple[str, ...] = ()
    """``Attention`` modules of a 3-D transformer's blocks, in forward order: one attention for space, time and text,
    with rotary positions. Their processors are replaced, never the modules."""


class VideoModel(Protocol):
    """A latent text-to-video model.

    In what follows a frame is a step of the latent time axis; `ModelLimits.frames_per_latent` pictures belong to it.
    """

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
    def temporal_decoder(self) -> TemporalDecoder | None:
        """Decodes where a picture depends on several latent frames; None: frame by frame, with `decode`."""
        return None

    @property
    def text_on_one_rank(self) -> bool:
        """Whether only rank 0 calls `encode_text` and shares what it gives: for text encoders that are large.

        They are best loaded at the first call then, which never comes on the other ranks.
        """
        return False

    @property
    def prompt_prefix(self) -> str:
        """What prompts begin with in training: put before those that do not, but not before a negative one."""
        return ""

    @property
    def image_cache(self) -> BoundedCache[Any, Any] | None:
        """What it keeps of the images it was given, for its counts of hits and misses; None: it keeps nothing."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""

    @property
    def dtype(self) -> torch.dtype:
        """In what the model computes."""

    def begin(self, spec: GenerationSpec, latent_frames: range) -> None:
        """Take up what a generation is conditioned on besides its text, such as its frame rate or its images.

        Args:
            spec: what is generated, counted in pictures.
            latent_frames: those that `predict` will get; frame 0 where the clip is empty.
        """

    def end(self) -> None:
        """Let go of what `begin` took up: the generation is over, its pictures are decoded, or it failed anywhere."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Size of one frame's latent, ``(C, h, w)``, for a picture in pixels."""

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        """Encode prompts to one tensor ``[len(prompts), rows, dim]``; a row need not be a token."""

    def predict(self, latents: torch.Tensor, timestep: float, text: torch.Tensor) -> torch.Tensor:
        """Run the denoiser once.

        Args:
            latents: ``[B * f, C, h, w]``: the clip once for every one of B texts.
            timestep: training timestep, the same for all frames.
            text: ``[B, f or 1, rows, dim]``: one a frame, or one for all of them; B is 1 where it runs one at a time.

        Returns:
            The model's prediction, ``[B * f, C, h, w]``.
        """

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode ``[n, C, h, w]`` to RGB ``[n, H, W, 3]``, float32, black 0, white 1, not clamped, in any layout.

        Only called where there is no `temporal_decoder`.
        """
