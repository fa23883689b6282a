"""SkyReels-V1: HunyuanVideo's transformer trained further, with true guidance, from a text or from an image and a text.

As its authors run it (SkyworkAI/SkyReels-V1, skyreelsinfer) and as diffusers does (`HunyuanVideoPipeline`,
`HunyuanSkyreelsImageToVideoPipeline`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel
from torch import nn

from vinf_core.errors import ModelFilesError
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.adapter import TemporalSites, VideoModel
from vinf_core.models.bounded_cache import BoundedCache
from vinf_core.models.files import CONFIG
from vinf_core.models.flow_schedule import EVEN_SIGMAS, FLOW_SCHEDULERS
from vinf_core.models.hunyuan_text import HunyuanText, HunyuanTextEncoder
from vinf_core.models.hunyuan_vae import HunyuanDecoder
from vinf_core.models.images import pixels_of
from vinf_core.models.loading import load_component, load_scheduler_config
from vinf_core.models.locate import ModelFiles, check_frame_count
from vinf_core.models.weights import offload, quantise
from vinf_core.types import GenerationSpec, ImageFrames, ModelLimits, Solver, TemporalScope

PROMPT_PREFIX = "FPS-24, "
"""What prompts begin with in training, and must begin with."""

EMBEDDED_GUIDANCE = 1000.0
"""The guidance scale that the transformer is told, which is 1, times 1000 as in the pipelines: it was trained to be
guided by two predictions, not by that number."""

SCOPE = TemporalScope(local_window_frames=64, global_frames=32)
"""8 latent frames to either side and 8 of the whole video: with a group of 4 about as many as the 25 that it was
trained on; not measured."""

BLOCKS = ("transformer_blocks", "single_transformer_blocks")
"""Where the transformer's blocks are, in forward order."""

FRAMES_PER_LATENT = 4
"""Of the VAE."""

IMAGE_CACHE_ENTRIES = 16
IMAGE_CACHE_BYTES = 64 << 20


class SkyReelsModel:
    """Adapter of both models."""

    latent_scale = None
    preview_map = None
    text_on_one_rank = True
    framewise_sites: tuple[str, ...] = ()
    prompt_prefix = PROMPT_PREFIX

    def __init__(
        self,
        *,
        transformer: Any,
        vae: Any,
        text_encoder: HunyuanTextEncoder,
        scheduler_config: dict[str, Any],
        limits: ModelLimits,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Make one of parts that are where they should be and in ``dtype``."""
        self.unet: nn.Module = transformer
        self.limits = limits
        self.scheduler_config = scheduler_config | {EVEN_SIGMAS: True}
        self.device = device
        self.dtype = dtype
        self.temporal_decoder = HunyuanDecoder(vae)
        self.temporal_sites = TemporalSites(
            convolutions=(),
            transformers=(),
            joint_attentions=tuple(
                f"{name}.{index}.attn" for name in BLOCKS for index in range(len(transformer.get_submodule(name)))
            ),
            position_count=FrameGrid(limits.frames_per_latent).latent_count(limits.trained_frame_count),
        )
        self.image_cache: BoundedCache[tuple[bytes, int, int], torch.Tensor] = BoundedCache(
            IMAGE_CACHE_ENTRIES, max_bytes=IMAGE_CACHE_BYTES, size_of=lambda latent: latent.nbytes
        )
        """Latents of images kept across generations; other threads may read its counts."""
        self._vae = vae
        self.text_encoder = text_encoder
        self._config = transformer.config
        self._image_latents: torch.Tensor | None = None
        self._current: tuple[GenerationSpec, torch.Tensor] | None = None

    def begin(self, spec: GenerationSpec, latent_frames: range) -> None:
        """Take up the image, which the limits of a model that animates one demand."""
        if self.limits.image_frames is ImageFrames.NONE:
            return
        shape = self.latent_shape(spec.width, spec.height)
        self._image_latents = torch.zeros(len(latent_frames), *shape, device=self.device, dtype=self.dtype)
        if 0 in latent_frames:
            # Overlapping windows ask for it at every step of one generation: looked up once.
            if self._current is None or self._current[0] is not spec:
                key = hashlib.blake2b(spec.images[0].pixels).digest(), spec.width, spec.height
                self._current = spec, self.image_cache.get(key, lambda: self._encode_image(spec))
            self._image_latents[latent_frames.index(0)] = self._current[1]

    def end(self) -> None:
        """Let go of the image."""
        self._image_latents = self._current = None

    @torch.inference_mode()
    def _encode_image(self, spec: GenerationSpec) -> torch.Tensor:
        """``[C, h, w]``: the mode of what the VAE says, where the stock pipeline draws from it."""
        levels = pixels_of(spec.images[0], spec).permute(2, 0, 1).to(self.device).float() / 255
        picture = (levels * 2 - 1)[None, :, None].to(self.dtype)
        encoded: torch.Tensor = self._vae.encode(picture).latent_dist.mode()[0, :, 0]
        latent: torch.Tensor = encoded.float() * self._vae.config.scaling_factor
        return latent.to(self.dtype)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Size of one latent frame, ``(C, h, w)``."""
        factor = self._vae.spatial_compression_ratio
        return int(self._config.out_channels), height // factor, width // factor

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        """Encode prompts, as they are, to what `HunyuanText.pack` gives; the first call loads the encoders."""
        return self.text_encoder.encode(prompts)

    @torch.inference_mode()
    def predict(self, latents: torch.Tensor, timestep: float, text: torch.Tensor) -> torch.Tensor:
        """Run the transformer: ``[B * f, C, h, w]`` to the velocity, of the same shape; one text for all frames."""
        texts = text.shape[0]
        video = latents.view(texts, -1, *latents.shape[1:])
        if self.limits.image_frames is not ImageFrames.NONE:
            # Nothing has begun where only time and memory are measured.
            image = torch.zeros_like(video[0]) if self._image_latents is None else self._image_latents
            video = torch.cat([video, image.expand_as(video)], dim=2)
        condition = HunyuanText.unpack(text[:, 0], self._config.pooled_projection_dim)
        velocity: torch.Tensor = self.unet(
            hidden_states=video.transpose(1, 2),
            timestep=torch.full((texts,), timestep, device=self.device),
            encoder_hidden_states=condition.states,
            encoder_attention_mask=condition.mask,
            pooled_projections=condition.pooled,
            guidance=torch.full((texts,), EMBEDDED_GUIDANCE, device=self.device, dtype=self.dtype),
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).flatten(0, 1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Never called: see `temporal_decoder`."""
        raise NotImplementedError("pictures depend on several latent frames: temporal_decoder decodes them")


def load(files: ModelFiles, options: Mapping[str, str], *, device: torch.device, dtype: torch.dtype) -> VideoModel:
    """Load a transformer, and the rest of HunyuanVideo from ``files.base``; the text encoders with the first text.

    Raises:
        ModelFilesError: a file is missing, damaged, of another class, or does not go with the others.
        ConfigError: an option needs a package that is not installed.
    """
    fp8, on_host = options["weights"] == "fp8", options["offload"] == "blocks"
    text_encoder = HunyuanTextEncoder(files.base, device=device, dtype=dtype, fp8=fp8, leaves=on_host)
    scheduler_config = load_scheduler_config(files.base / "scheduler", FLOW_SCHEDULERS)
    vae = _settle(load_component(AutoencoderKLHunyuanVideo, files.base / "vae", dtype=dtype)).to(device)
    if options["vae-tiling"] == "on":
        vae.enable_tiling()
    transformer = _settle(load_component(HunyuanVideoTransformer3DModel, files.denoiser, dtype=dtype))
    _check(transformer.config, vae, files)
    text_encoder.check_sizes(transformer.config.text_embed_dim, transformer.config.pooled_projection_dim)
    if fp8:
        quantise(transformer, BLOCKS, device)
    if on_host:
        offload(transformer, device)
    else:
        transformer.to(device)
    return SkyReelsModel(
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        scheduler_config=scheduler_config,
        limits=limits(files),
        device=device,
        dtype=dtype,
    )


def limits(files: ModelFiles) -> ModelLimits:
    """Size, length, steps and guidance are those of the authors' examples.

    Raises:
        ModelFilesError: the folder says a length that no video can have.
    """
    card = files.card
    check_frame_count(files, FRAMES_PER_LATENT)
    return ModelLimits(
        name=card.name,
        default_width=card.width,
        default_height=card.height,
        min_width=64,
        max_width=1280,
        min_height=64,
        max_height=1280,
        size_multiple=16,
        default_frame_count=card.frame_count,
        max_frame_count=65_533,
        trained_frame_count=card.frame_count,
        default_frame_rate=(card.frame_rate, 1),
        default_step_count=30,
        default_guidance_scale=6.0,
        default_solver=Solver.FLOW_EULER,
        default_scope=SCOPE,
        max_prompt_chars=2000,
        image_frames=card.image_frames,
        max_images=0 if card.image_frames is ImageFrames.NONE else 1,
        min_images=0 if card.image_frames is ImageFrames.NONE else 1,
        frames_per_latent=FRAMES_PER_LATENT,
        solvers=(Solver.FLOW_EULER,),
        takes_story=False,
    )


def _settle(module: Any) -> Any:
    return module.eval().requires_grad_(False)


def _check(config: Any, vae: Any, files: ModelFiles) -> None:
    """See that the transformer is of the kind that the card says, and goes with the VAE."""
    latent = vae.config.latent_channels
    wanted = {
        "in_channels": latent if files.card.image_frames is ImageFrames.NONE else 2 * latent,
        "out_channels": latent,
        "patch_size_t": 1,
        "image_condition_type": None,
    }
    for name, value in wanted.items():
        if config[name] != value:
            path = files.denoiser / CONFIG
            raise ModelFilesError(f"model: {path} says {name}: {config[name]}; {files.card.name} wants {value}")
