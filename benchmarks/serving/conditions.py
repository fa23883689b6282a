"""What a generation is conditioned on, encoded a second time: with the bounded caches of a rank, and without them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from diffusers import AutoencoderKLMagvit
from torch import nn
from transformers import T5Config, T5EncoderModel

from vinf_core.engine.prompt_cache import PromptCache
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.inpaint import InpaintCondition
from vinf_core.types import GenerationSpec, ImageCondition, TemporalScope

PROMPTS = ("a red ball bouncing over the sea", "blurred, flickering")
"""Of a guided generation."""

TOKENS = 256


@dataclass(frozen=True, slots=True)
class Kept:
    """What is held from one generation to the next."""

    entries: int
    byte_count: int


class Prompts:
    """A text encoder with few layers and random weights, and the prompts' cache."""

    def __init__(self, device: torch.device, dtype: torch.dtype, *, is_cached: bool) -> None:
        torch.manual_seed(0)
        config = T5Config(vocab_size=256, d_model=512, d_ff=1024, d_kv=64, num_heads=8, num_layers=6)
        self._encoder = nn.Module.to(T5EncoderModel(config), device, dtype).eval().requires_grad_(False)
        self._device = device
        self._cache = PromptCache(self._encode) if is_cached else None

    def encode(self) -> list[torch.Tensor]:
        """Embed the prompts of one generation."""
        if self._cache is None:
            return [self._encode([prompt])[0] for prompt in PROMPTS]
        return self._cache.embed(PROMPTS)

    def kept(self, made: list[torch.Tensor]) -> Kept:
        """What the cache holds after a generation that took ``made``."""
        return Kept(0, 0) if self._cache is None else Kept(len(self._cache), sum(each.nbytes for each in made))

    @torch.inference_mode()
    def _encode(self, prompts: list[str]) -> torch.Tensor:
        # Bytes are tokens enough for random weights.
        rows = [list(prompt.encode()[:TOKENS].ljust(TOKENS)) for prompt in prompts]
        states: torch.Tensor = self._encoder(torch.tensor(rows, device=self._device))[0]
        return states


class Images:
    """The start image of a video as EasyAnimate's adapter encodes it, and its cache."""

    def __init__(self, vae: AutoencoderKLMagvit, frame_count: int, size: tuple[int, int], *, is_cached: bool) -> None:
        self._vae = vae
        self._is_cached = is_cached
        width, height = size
        pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(0))
        self._spec = GenerationSpec(
            prompt=PROMPTS[0],
            frame_count=frame_count,
            width=width,
            height=height,
            seed=0,
            step_count=1,
            guidance_scale=1,
            scope=TemporalScope(local_window_frames=0, global_frames=0),
            images=(ImageCondition(0, pixels.to(torch.uint8).numpy().tobytes()),),
        )
        self._latent_frames = range(FrameGrid(vae.temporal_compression_ratio).latent_count(frame_count))
        self._condition = self._new()

    def encode(self) -> torch.Tensor:
        """Encode the image of one generation."""
        condition = self._condition if self._is_cached else self._new()
        # Every generation comes with a specification of its own: what is found is found by the pixels.
        made = condition.make(replace(self._spec), self._latent_frames)
        assert made is not None
        return made

    def kept(self, made: torch.Tensor) -> Kept:
        """What the cache holds after a generation that took ``made``."""
        return Kept(len(self._condition.cache), self._condition.cache.byte_count)

    def _new(self) -> InpaintCondition:
        return InpaintCondition(self._vae, adds_noise=True)
