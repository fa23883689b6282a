"""Models that decode every frame alone, as decoders of slices: a few frames a call."""

from __future__ import annotations

import torch

from vinf_core.models.adapter import VideoModel
from vinf_core.models.temporal_decoder import ChunkGrid, TemporalDecoder

SLICE_FRAMES = 4
"""Small enough that the first frame comes early and memory stays low, large enough to keep the decoder busy."""


class SliceDecoder:
    """A `TemporalDecoder` whose chunks are slices of frames that know nothing of each other."""

    grid = ChunkGrid(SLICE_FRAMES)

    def __init__(self, model: VideoModel) -> None:
        self._model = model

    def decode_chunk(
        self, latents: torch.Tensor, *, chunk: range, seen: range, carried: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Decode a slice, or a part of one."""
        return self._model.decode(latents), ()

    def blend(self, pictures: torch.Tensor, carried: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Nothing to blend."""
        return pictures


def decoder_of(model: VideoModel) -> TemporalDecoder:
    """What decodes a model's latents."""
    return model.temporal_decoder or SliceDecoder(model)
