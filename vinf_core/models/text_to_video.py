"""The family of diffusers' `TextToVideoSDPipeline`: a UNet3DConditionModel or its like, a VAE, a CLIP encoder."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, TemporalConvLayer, Upsample2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import nn

from vinf_core.models.adapter import TemporalSites
from vinf_core.models.bounded_cache import BoundedCache
from vinf_core.models.latent_scale import LatentScale
from vinf_core.models.loading import load_component, load_scheduler_config, load_text_encoder, load_tokenizer
from vinf_core.models.locate import ModelFiles
from vinf_core.models.preview_map import PreviewMap
from vinf_core.models.temporal_decoder import TemporalDecoder
from vinf_core.types import GenerationSpec, ModelLimits, Solver, TemporalScope

SCHEDULERS = tuple(kind.name for kind in KarrasDiffusionSchedulers if kind.name != "EDMEulerScheduler")
"""Classes whose configuration describes the noise schedule in the same words: those that diffusers takes for
one another, but for one that has no betas."""

SCOPE = TemporalScope(local_window_frames=16, global_frames=16, phase_timestep=800, phase_bias=10.0)
"""For VideoCrafter2 and the others with its denoiser (Video-Infinity, section 5.1)."""


class TextToVideoModel:
    """Adapter of this family; made of the pipeline's parts, which it moves to its device and dtype."""

    temporal_decoder: TemporalDecoder | None = None
    text_on_one_rank = False
    prompt_prefix = ""
    image_cache: BoundedCache[Any, Any] | None = None

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler_config: dict[str, Any],
        limits: ModelLimits,
        preview_map: PreviewMap | None = None,
        latent_scale: LatentScale | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self.limits = limits
        self.scheduler_config = scheduler_config
        self.preview_map = preview_map.to(self.device) if preview_map is not None else None
        self.latent_scale = latent_scale
        self._unet_config = unet.config
        self.unet: nn.Module = self._settle(unet)
        self._vae = self._settle(vae)
        self._text_encoder = self._settle(text_encoder)
        self._tokenizer = tokenizer
        self.temporal_sites = find_temporal_sites(self.unet, limits.trained_frame_count)
        self.framewise_sites = find_framewise_sites(self.unet)

    @classmethod
    def from_files(
        cls,
        files: ModelFiles,
        limits: ModelLimits,
        *,
        unet: Any = None,
        preview_map: PreviewMap | None = None,
        latent_scale: LatentScale | None = None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> TextToVideoModel:
        """Load a pipeline as diffusers saves it.

        Args:
            files: where its components are.
            limits: what it takes.
            unet: the denoiser, where it is of another class than `UNet3DConditionModel`.
            preview_map: see `VideoModel.preview_map`.
            latent_scale: see `VideoModel.latent_scale`.
            device: where it computes.
            dtype: in what; weights that are stored in half precision are converted once here.

        Raises:
            ModelFilesError: a file is missing, damaged, or of something else.
        """
        base = files.base
        return cls(
            unet=load_component(UNet3DConditionModel, files.denoiser) if unet is None else unet,
            vae=load_component(AutoencoderKL, base / "vae"),
            text_encoder=load_text_encoder(base / "text_encoder"),
            tokenizer=load_tokenizer(base / "tokenizer"),
            scheduler_config=load_scheduler_config(base / "scheduler", SCHEDULERS),
            limits=limits,
            preview_map=preview_map,
            latent_scale=latent_scale,
            device=device,
            dtype=dtype,
        )

    def _settle(self, module: Any) -> Any:
        """Move a module to the model's device and dtype, for inference."""
        # Not `module.to(...)`: diffusers' own warns about a conversion that is meant here.
        return nn.Module.to(module, self.device, self.dtype).eval().requires_grad_(False)

    def begin(self, spec: GenerationSpec, latent_frames: range) -> None:
        """Take up what a generation is conditioned on besides its text: its frame rate, if the denoiser knows any."""
        condition = getattr(self.unet, "set_frame_rate", None)
        if condition is not None:
            condition(spec.frame_rate)

    def end(self) -> None:
        """Nothing of a size is kept."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Size of one frame's latent, ``(C, h, w)``."""
        factor = 2 ** (len(self._vae.config.block_out_channels) - 1)
        return int(self._unet_config.in_channels), height // factor, width // factor

    @torch.inference_mode()
    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        """Encode prompts to ``[len(prompts), tokens, dim]``, padded to the tokenizer's length as the pipeline does."""
        tokens = self._tokenizer(
            prompts,
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        states: torch.Tensor = self._text_encoder(tokens.input_ids.to(self.device))[0]
        return states.to(self.dtype)

    @torch.inference_mode()
    def predict(self, latents: torch.Tensor, timestep: float, text: torch.Tensor) -> torch.Tensor:
        """Run the UNet with one frame a batch entry; frames meet only in the temporal modules."""
        timesteps = torch.full((latents.shape[0],), timestep, device=self.device)
        # A text that all frames share goes in once for all of them (`models.text_attention`).
        prediction: torch.Tensor = self.unet(latents[:, :, None], timesteps, text.flatten(0, 1), return_dict=False)[0]
        video_frames: torch.Tensor = prediction[:, :, 0]
        return video_frames

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode ``[n, C, h, w]`` to RGB ``[n, H, W, 3]``, float32, black 0, white 1, not clamped."""
        scaled = latents.to(self.dtype) / self._vae.config.scaling_factor
        pictures = self._vae.decode(scaled, return_dict=False)[0]
        # Put in order by whoever copies it to the host.
        rgb: torch.Tensor = (pictures.float() * 0.5 + 0.5).permute(0, 2, 3, 1)
        return rgb


def limits_at_full_size(
    files: ModelFiles, *, step_count: int, guidance_scale: float, scope: TemporalScope = SCOPE
) -> ModelLimits:
    """What published models take: the size and length they were trained on."""
    return ModelLimits(
        name=files.card.name,
        default_width=files.card.width,
        default_height=files.card.height,
        min_width=64,
        max_width=1024,
        min_height=64,
        max_height=1024,
        size_multiple=64,
        default_frame_count=64,
        max_frame_count=65_536,
        trained_frame_count=files.card.frame_count,
        default_frame_rate=(files.card.frame_rate, 1),
        default_step_count=step_count,
        default_guidance_scale=guidance_scale,
        default_solver=Solver.DPM_SOLVER_PP_2M,
        default_scope=scope,
        max_prompt_chars=2000,
    )


def find_temporal_sites(unet: nn.Module, trained_frame_count: int = 0) -> TemporalSites:
    """Name every module through which frames see each other, in the model's order.

    Args:
        unet: a `UNet3DConditionModel` or a `UNetMotionModel`.
        trained_frame_count: frames that it was trained on at a time, for those that know positions.
    """
    convolutions = []
    transformers = []
    motion_modules = []
    for name, module in unet.named_modules():
        if isinstance(module, TemporalConvLayer):
            convolutions.append(name)
        elif isinstance(module, TransformerTemporalModel):
            transformers.append(name)
        elif isinstance(module, AnimateDiffTransformer3D):
            motion_modules.append(name)
    return TemporalSites(
        convolutions=tuple(convolutions),
        transformers=tuple(transformers),
        motion_modules=tuple(motion_modules),
        position_count=trained_frame_count if motion_modules else 0,
    )


def find_framewise_sites(unet: nn.Module) -> tuple[str, ...]:
    """Name the large modules of such a denoiser that treat every frame alone, in the model's order."""
    kinds = (ResnetBlock2D, Transformer2DModel, Downsample2D, Upsample2D)
    return tuple(name for name, module in unet.named_modules() if isinstance(module, kinds))
