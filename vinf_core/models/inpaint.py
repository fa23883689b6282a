"""What EasyAnimate's InP models take besides noise: which frames are given, and the video with all others blank.

As `EasyAnimateInpaintPipeline` of diffusers makes it, but for the noise that it adds to the images: there it is drawn
anew at every call, here it follows from the seed and the frame, so that every rank adds the same.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from vinf_core.latent_frames import FrameGrid
from vinf_core.models.bounded_cache import BoundedCache
from vinf_core.models.images import pixels_of
from vinf_core.models.magvit_encode import BLANK, LatentRuns, encode_sparse
from vinf_core.types import GenerationSpec

NOISE_STRENGTH = 0.0563
"""Of the noise added to images; the pipeline's default."""

CACHE_ENTRIES = 16
CACHE_BYTES = 256 << 20
"""A generation takes about 30 latents, however long it is: 16 MiB at 1024 x 1024 in half precision."""

_NOISE_COUNTER = [0, 0, 0, 2]
"""Where an image's noise begins: far behind that of the latents with the same key, and behind their shuffles."""


class InpaintCondition:
    """Makes the conditions of a model and keeps those it made last."""

    def __init__(self, vae: Any, *, adds_noise: bool) -> None:
        """Make it.

        Args:
            vae: an `AutoencoderKLMagvit` on its device, in its dtype.
            adds_noise: whether the model was trained with noise on its images.
        """
        self._vae = vae
        self._adds_noise = adds_noise
        self._grid = FrameGrid(vae.temporal_compression_ratio)
        self.cache: BoundedCache[tuple[Any, ...], LatentRuns] = BoundedCache(
            CACHE_ENTRIES, max_bytes=CACHE_BYTES, size_of=lambda runs: runs.byte_count
        )
        """Encoded videos, kept across generations; other threads may read its counts."""
        self._current: tuple[GenerationSpec, LatentRuns] | None = None

    @torch.inference_mode()
    def make(self, spec: GenerationSpec, latent_frames: range) -> torch.Tensor | None:
        """Make the condition of some latent frames: ``[f, 1 + C, h, w]``, the mask and the masked video, both scaled.

        Returns:
            None where no image is given: zeros, as the model was trained for texts alone.
        """
        if not spec.images:
            self._current = None
            return None
        # Overlapping windows ask for their own latent frames of one generation over and over: looked up once.
        if self._current is None or self._current[0] is not spec:
            self._current = spec, self.cache.get(self._key(spec), lambda: self._encode(spec))
        latents = self._current[1].of(latent_frames)
        mask = torch.zeros_like(latents[:, :1])
        if spec.images[0].frame_index == 0 and 0 in latent_frames:
            mask[latent_frames.index(0)] = 1
        # The stock pipeline's mask of a last frame comes to nothing: of the four frames of a latent frame, its resizing
        # reads the two in the middle. The model was trained with it, and finds the image in the masked video.
        condition: torch.Tensor = torch.cat([mask, latents], dim=1) * self._vae.config.scaling_factor
        return condition

    def _key(self, spec: GenerationSpec) -> tuple[Any, ...]:
        """All that the latents depend on."""
        return (
            *(spec.width, spec.height, spec.frame_count, spec.seed if self._adds_noise else None),
            *((image.frame_index, hashlib.blake2b(image.pixels).digest()) for image in spec.images),
        )

    def _encode(self, spec: GenerationSpec) -> LatentRuns:
        pictures = {}
        for image in spec.images:
            levels = pixels_of(image, spec).permute(2, 0, 1).float() / 255 * 2 - 1
            picture = levels.to(self._vae.device, self._vae.dtype)
            if self._adds_noise:
                noise = reference_noise(spec.seed, image.frame_index, tuple(picture.shape)).to(picture) * NOISE_STRENGTH
                picture = picture + torch.where(picture == BLANK, 0, noise)
            pictures[image.frame_index] = picture
        return encode_sparse(self._vae, pictures, spec.frame_count, (spec.height, spec.width))


def reference_noise(seed: int, frame: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw the standard normal noise of an image: float32 on the CPU, from (seed, frame) alone."""
    bits = np.random.Philox(key=np.array([seed, frame], dtype=np.uint64), counter=_NOISE_COUNTER)
    return torch.from_numpy(np.random.Generator(bits).standard_normal(shape, dtype=np.float32))
