"""Encodes a video of which only a few frames are given and the rest is blank, at a cost that does not grow with it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLMagvit

from vinf_core.models.magvit import State, causal_state, state_of

BLANK = -1.0
"""The level of a frame that is not given: black."""


@dataclass(frozen=True, slots=True)
class LatentRuns:
    """Latents of a video in which most latent frames are one and the same."""

    starts: tuple[int, ...]
    """The first latent frame of each run, ascending from 0."""
    latents: torch.Tensor
    """``[runs, C, h, w]``: what all latent frames of a run are."""

    @property
    def byte_count(self) -> int:
        """Bytes of the latents."""
        return self.latents.numel() * self.latents.element_size()

    def of(self, latent_frames: range) -> torch.Tensor:
        """The latents of some latent frames, ``[len(latent_frames), C, h, w]``."""
        return self.latents[[bisect_right(self.starts, frame) - 1 for frame in latent_frames]]


@torch.inference_mode()
def encode_sparse(
    vae: AutoencoderKLMagvit, pictures: Mapping[int, torch.Tensor], frame_count: int, size: tuple[int, int]
) -> LatentRuns:
    """Encode a video as the stock VAE does, whose encoder goes through it chunk by chunk.

    A chunk is the first frame, or the four frames of a later latent frame. Once a blank chunk leaves the encoder in the
    very state in which it came upon it, bit for bit, every further blank chunk gives the same latent and the same
    state, and is not computed.

    Args:
        vae: on its device, in its dtype.
        pictures: what is given: frame index to ``[3, H, W]``, levels from -1 to 1.
        frame_count: of the video, 4 k + 1.
        size: ``(H, W)``.

    Returns:
        The mode of the posterior, not scaled.
    """
    per_latent = vae.temporal_compression_ratio
    count = 1 + (frame_count - 1) // per_latent
    given = {-(-frame // per_latent) for frame in pictures}
    starts: list[int] = []
    latents: list[torch.Tensor] = []
    with causal_state(vae.encoder, None):
        before: State | None = None
        index = 0
        while index < count:
            first = (index - 1) * per_latent + 1 if index else 0
            chunk = torch.full((1, 3, per_latent if index else 1, *size), BLANK, device=vae.device, dtype=vae.dtype)
            for place in range(chunk.shape[2]):
                if first + place in pictures:
                    chunk[0, :, place] = pictures[first + place].to(chunk)
            moments = vae.quant_conv(vae.encoder(chunk))
            starts.append(index)
            latents.append(moments.chunk(2, dim=1)[0][0, :, 0])  # the first half is the mean, which is the mode
            after = state_of(vae.encoder)
            is_settled = index not in given and before is not None and all(map(torch.equal, before, after))
            before = after
            index = min((at for at in given if at > index), default=count) if is_settled else index + 1
    return LatentRuns(tuple(starts), torch.stack(latents))
