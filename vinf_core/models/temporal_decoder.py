"""What the engine asks of a VAE in which pictures depend on several latent frames.

Latents are decoded in chunks at fixed multiples of latent frames, whatever the number of ranks: chunk c belongs to rank
c modulo the number of ranks, and what a chunk leaves for the next one travels from rank to rank. So a picture is always
decoded in the same company, to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch


class HandOver(StrEnum):
    """What a chunk needs of the chunk before it."""

    NONE = "none"
    """Nothing."""
    BLEND = "blend"
    """What that one leaves for its first frames to be blended with: chunks are decoded at the same time."""
    STATE = "state"
    """The state that one was left in: chunks are decoded one after the other."""


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """Where a video's latents are cut for decoding, and what decoding a chunk is given besides them."""

    latents: int
    """Latent frames of a chunk: chunk c is ``[c * latents, (c + 1) * latents)``; the last one may be shorter."""
    before: int = 0
    """Latent frames before the chunk that are given too, as far as there are such."""
    after: int = 0
    """Latent frames after it that are given too, as far as there are such."""
    hand_over: HandOver = HandOver.NONE
    memory: int = 0
    """STATE only: so many latent frames before a chunk bring about the very same state; where decoding begins later."""

    def __post_init__(self) -> None:
        if self.latents < 1:
            raise ValueError(f"latents: {self.latents} is less than 1")
        for name in ("before", "after", "memory"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 0")
        if self.memory and self.hand_over is not HandOver.STATE:
            raise ValueError(f"memory: {self.memory} does not go with hand_over {self.hand_over.value}")


class TemporalDecoder(Protocol):
    """Decodes chunks of latents to pictures."""

    @property
    def grid(self) -> ChunkGrid:
        """How it wants them cut."""

    def decode_chunk(
        self, latents: torch.Tensor, *, chunk: range, seen: range, carried: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Decode one chunk.

        Args:
            latents: ``[n, C, h, w]`` of the latent frames ``seen``, float32 or better.
            chunk: the latent frames whose pictures are wanted; fewer than on the grid where a sample is looked at.
            seen: contains ``chunk``.
            carried: STATE: what the chunk before left; None for the first chunk of a video, where ``seen`` reaches
                back ``memory`` latent frames instead, and for a sample, whose ``seen`` begins one latent frame before
                ``chunk``: it need not be exact. Else None.

        Returns:
            The pictures of the chunk's frames (`FrameGrid.frames_of`), RGB ``[F, H, W, 3]``, float32, black 0, white 1,
            not clamped, in any layout; and what the next chunk needs: tensors of any shape, none with NONE.
        """

    def blend(self, pictures: torch.Tensor, carried: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Blend a chunk's first frames with what the chunk before left for them; BLEND only, and there not for chunk 0.

        Args:
            pictures: as `decode_chunk` gave them; may be changed in place.
            carried: what `decode_chunk` gave for the chunk before, before that one was blended itself.

        Returns:
            As many pictures.
        """
