"""EasyAnimate V5.1: a transformer of text and video, from a text alone or from a first and a last frame besides.

As diffusers runs it (`EasyAnimateInpaintPipeline`, `EasyAnimatePipeline`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMagvit, EasyAnimateTransformer3DModel
from torch import nn

from vinf_core.errors import ModelFilesError
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.adapter import TemporalSites, VideoModel
from vinf_core.models.files import CONFIG, read_config
from vinf_core.models.flow_schedule import FLOW_SCHEDULERS
from vinf_core.models.inpaint import InpaintCondition
from vinf_core.models.loading import load_component, load_scheduler_config
from vinf_core.models.locate import ModelFiles, check_frame_count
from vinf_core.models.magvit import WARM_UP_LATENTS, MagvitDecoder
from vinf_core.models.qwen_text import QwenTextEncoder
from vinf_core.models.weights import offload, quantise
from vinf_core.types import GenerationSpec, ImageFrames, ModelLimits, Solver, TemporalScope

SCOPE = TemporalScope(local_window_frames=24, global_frames=12)
"""3 latent frames to either side and 3 of the whole video: with a group of 4 as many as the 13 that it was trained on;
not measured."""

SCHEDULERS = (*FLOW_SCHEDULERS, "DDIMScheduler")
"""V5.1 was trained with a flow; a descendant may predict a velocity on V5's schedule, as the stock pipeline can."""

BLOCKS = "transformer_blocks"
"""Where the transformer's blocks are."""

FRAMES_PER_LATENT = 4
"""Of the VAE."""

_V5 = (
    "that is EasyAnimate V5, whose VAE has two attentions of 512 channels in its middle that diffusers' "
    "AutoencoderKLMagvit does not have, so its weights cannot be loaded; V5.1 can be: easyanimate-v5.1-7b-inp"
)


class EasyAnimateModel:
    """Adapter of the V5.1 models."""

    latent_scale = None
    preview_map = None
    text_on_one_rank = True
    prompt_prefix = ""
    framewise_sites: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        transformer: Any,
        vae: AutoencoderKLMagvit,
        text_encoder: QwenTextEncoder,
        scheduler_config: dict[str, Any],
        limits: ModelLimits,
        warm_up: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Make one of parts that are where they should be and in ``dtype``.

        Args:
            warm_up: see `MagvitDecoder`.
        """
        self.unet: nn.Module = transformer
        self.limits = limits
        self.scheduler_config = scheduler_config
        self.device = device
        self.dtype = dtype
        self.temporal_decoder = MagvitDecoder(vae, warm_up=warm_up)
        self.temporal_sites = TemporalSites(
            convolutions=(),
            transformers=(),
            joint_attentions=tuple(f"{BLOCKS}.{index}.attn1" for index in range(len(transformer.transformer_blocks))),
            position_count=FrameGrid(limits.frames_per_latent).latent_count(limits.trained_frame_count),
        )
        self._vae = vae
        self._text_encoder = text_encoder
        self._config = transformer.config
        self._inpaint: InpaintCondition | None = None
        if limits.image_frames is not ImageFrames.NONE:
            self._inpaint = InpaintCondition(vae, adds_noise=transformer.config.add_noise_in_inpaint_model)
        self._condition: torch.Tensor | None = None
        self.image_cache = None if self._inpaint is None else self._inpaint.cache
        """See `InpaintCondition.cache`."""

    def begin(self, spec: GenerationSpec, latent_frames: range) -> None:
        """Take up the images."""
        self._condition = None if self._inpaint is None else self._inpaint.make(spec, latent_frames)

    def end(self) -> None:
        """Let go of the images."""
        self._condition = None

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Size of one latent frame, ``(C, h, w)``."""
        factor = self._vae.spatial_compression_ratio
        return int(self._config.out_channels), height // factor, width // factor

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        """Encode prompts to ``[n, 256, dim]``; the first call loads the encoder."""
        return self._text_encoder.encode(prompts)

    @torch.inference_mode()
    def predict(self, latents: torch.Tensor, timestep: float, text: torch.Tensor) -> torch.Tensor:
        """Run the transformer: ``[B * f, C, h, w]`` to a velocity of that shape; ``text`` is one for all frames."""
        texts = text.shape[0]
        video = torch.unflatten(latents, 0, (texts, -1)).transpose(1, 2)
        condition = None
        if self._inpaint is not None:
            if self._condition is None:  # a text alone, or nothing has begun where only time and memory are measured
                condition = video.new_zeros(texts, 1 + video.shape[1], *video.shape[2:])
            else:
                condition = self._condition.transpose(0, 1).expand(texts, -1, -1, -1, -1)
        prediction: torch.Tensor = self.unet(
            video,
            torch.full((texts,), timestep, device=self.device, dtype=video.dtype),
            encoder_hidden_states=text[:, 0],
            inpaint_latents=condition,
            return_dict=False,
        )[0]
        return prediction.transpose(1, 2).flatten(0, 1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Never called: see `temporal_decoder`."""
        raise NotImplementedError("pictures depend on several latent frames: temporal_decoder decodes them")


def load(files: ModelFiles, options: Mapping[str, str], *, device: torch.device, dtype: torch.dtype) -> VideoModel:
    """Load a pipeline as diffusers saves it; its text encoder with the first text.

    Raises:
        ModelFilesError: a file is missing, damaged, of another class or of V5, or does not go with the others.
        ConfigError: an option needs a package that is not installed.
    """
    _check(files)
    fp8, on_host = options["weights"] == "fp8", options["offload"] == "blocks"
    text_encoder = QwenTextEncoder(files.base, device=device, dtype=dtype, fp8=fp8, leaves=on_host)
    scheduler_config = load_scheduler_config(files.base / "scheduler", SCHEDULERS)
    vae = _settle(load_component(AutoencoderKLMagvit, files.base / "vae", dtype=dtype)).to(device)
    transformer = _settle(load_component(EasyAnimateTransformer3DModel, files.denoiser, dtype=dtype))
    text_encoder.check_size(transformer.config.text_embed_dim)
    if fp8:
        quantise(transformer, (BLOCKS,), device)
    if on_host:
        offload(transformer, device)
    else:
        transformer.to(device)
    return EasyAnimateModel(
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        scheduler_config=scheduler_config,
        limits=limits(files, scheduler_config),
        warm_up=WARM_UP_LATENTS if options["vae"] == "parallel" else None,
        device=device,
        dtype=dtype,
    )


def limits(files: ModelFiles, scheduler_config: Mapping[str, Any]) -> ModelLimits:
    """Steps, guidance and size are the stock pipelines' defaults; other sizes those in EasyAnimate's README.

    Raises:
        ModelFilesError: the folder says a length that no video can have.
    """
    card = files.card
    check_frame_count(files, FRAMES_PER_LATENT)
    solver = Solver.FLOW_EULER if scheduler_config["_class_name"] in FLOW_SCHEDULERS else Solver.DDIM
    return ModelLimits(
        name=card.name,
        default_width=card.width,
        default_height=card.height,
        min_width=64,
        max_width=1344,
        min_height=64,
        max_height=1344,
        size_multiple=16,
        default_frame_count=card.frame_count,
        max_frame_count=65_533,
        trained_frame_count=card.frame_count,
        default_frame_rate=(card.frame_rate, 1),
        default_step_count=50,
        default_guidance_scale=5.0,
        default_solver=solver,
        default_scope=SCOPE,
        max_prompt_chars=2000,
        image_frames=card.image_frames,
        max_images=0 if card.image_frames is ImageFrames.NONE else 2,
        frames_per_latent=FRAMES_PER_LATENT,
        solvers=(solver,),
        takes_story=False,
    )


def _settle(module: Any) -> Any:
    return module.eval().requires_grad_(False)


def _check(files: ModelFiles) -> None:
    """See from the configurations alone that the parts are of a kind that is supported and go with one another."""
    vae_folder = files.base / "vae"
    transformer = read_config(files.denoiser, ("EasyAnimateTransformer3DModel",))
    vae = read_config(vae_folder, ("AutoencoderKLMagvit",))
    if transformer.get("text_embed_dim_t5") is not None:
        raise _refusal(files.denoiser, transformer, "text_embed_dim_t5", _V5)
    if vae.get("mid_block_use_attention"):
        raise _refusal(vae_folder, vae, "mid_block_use_attention", _V5)
    if not vae.get("cache_mag_vae", True):
        raise _refusal(vae_folder, vae, "cache_mag_vae", "a VAE that encodes the first frame with others is not one")
    if not transformer.get("resize_inpaint_mask_directly", True):
        why = "masks that went through the VAE are not supported"
        raise _refusal(files.denoiser, transformer, "resize_inpaint_mask_directly", why)
    latent = vae.get("latent_channels", 16)
    takes_images = files.card.image_frames is not ImageFrames.NONE
    for name, wanted in (("in_channels", 2 * latent + 1 if takes_images else latent), ("out_channels", latent)):
        if transformer.get(name) != wanted:
            raise _refusal(files.denoiser, transformer, name, f"{files.card.name} wants {wanted}")


def _refusal(folder: Path, config: Mapping[str, Any], name: str, why: str) -> ModelFilesError:
    return ModelFilesError(f"model: {folder / CONFIG} says {name}: {config.get(name)}; {why}")
