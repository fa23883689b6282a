"""HunyuanVideo's VAE, decoded tile by tile along time exactly as diffusers does it, on any number of ranks.

A tile is 5 latent frames, the next one begins 3 later, and they are blended over 4 frames. The first frame that a tile
decodes to is dropped, but for the video's first tile, so that tile c is heard of in latent frames 3c + 1 to 3c + 4. As
a chunk is latent frames 3c to 3c + 2, it gets the pictures of its first latent frame from the tile before, and those
of its second one blended with that tile's last. A causal state that would be handed from chunk to chunk, for a video
without blending, does not exist: the group norms of this decoder look at all frames they are given at once.
"""

from __future__ import annotations

from typing import Any

import torch

from vinf_core.models.temporal_decoder import ChunkGrid, HandOver


class HunyuanDecoder:
    """A `TemporalDecoder` around `AutoencoderKLHunyuanVideo`."""

    def __init__(self, vae: Any) -> None:
        """Make one.

        Args:
            vae: the model, on its device; where its tiling is on, a tile's pictures are decoded in tiles too. Its own
                tiling along time is switched off: the chunks are that.
        """
        self._vae = vae
        self._ratio: int = vae.temporal_compression_ratio
        tile = vae.tile_sample_min_num_frames // self._ratio
        stride = vae.tile_sample_stride_num_frames // self._ratio
        self._blended = vae.tile_sample_min_num_frames - vae.tile_sample_stride_num_frames
        self.grid = ChunkGrid(latents=stride, after=tile + 1 - stride, hand_over=HandOver.BLEND)
        vae.use_framewise_decoding = False

    @torch.inference_mode()
    def decode_chunk(
        self, latents: torch.Tensor, *, chunk: range, seen: range, carried: tuple[torch.Tensor, ...] | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Decode one chunk; see `TemporalDecoder`. What it leaves are the raw pictures of ``seen`` behind the chunk."""
        if len(seen) == 1 and chunk.start:  # the tile before has all there is
            size = self._vae.spatial_compression_ratio
            height, width = latents.shape[2] * size, latents.shape[3] * size
            return latents.new_zeros(self._ratio, height, width, 3, dtype=torch.float32), ()
        tile = (latents.to(self._vae.dtype) / self._vae.config.scaling_factor).transpose(0, 1)[None]
        decoded = self._vae.decode(tile, return_dict=False)[0][0]
        pictures = (decoded.float() * 0.5 + 0.5).permute(1, 2, 3, 0)
        if chunk.start:
            # Room for the pictures of the chunk's first latent frame, which come from the tile before.
            pictures = torch.cat([pictures[:1].expand(self._ratio - 1, -1, -1, -1), pictures])
        count = len(chunk) * self._ratio - (0 if chunk.start else self._ratio - 1)
        return pictures[:count], (pictures[count:].clone(),)

    @torch.inference_mode()
    def blend(self, pictures: torch.Tensor, carried: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Put the pictures of the tile before in front, and let its last ones fade into this one's."""
        (before,) = carried
        pictures[: self._ratio] = before[: self._ratio]
        fading, rising = before[self._ratio :], pictures[self._ratio :]
        extent = min(len(fading), len(rising), self._blended)
        for place in range(extent):
            share = place / extent
            rising[place] = fading[len(fading) - extent + place] * (1 - share) + rising[place] * share
        return pictures
