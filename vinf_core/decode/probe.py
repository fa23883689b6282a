"""Decodes what takes most memory of all that a decoder does."""

from __future__ import annotations

import torch

from vinf_core.decode.levels import to_levels
from vinf_core.models.temporal_decoder import HandOver, TemporalDecoder


def probe_chunk(decoder: TemporalDecoder, shape: tuple[int, int, int], device: torch.device) -> None:
    """Decode a chunk of zeros with all the latent frames that it may be given, and the next one if it gets anything.

    With STATE these are the first two of a video: a state is as large however many latent frames have brought it about.

    Args:
        decoder: of a model.
        shape: of a latent frame.
        device: of the model.
    """
    grid = decoder.grid
    is_stateful = grid.hand_over is HandOver.STATE
    start = 0 if is_stateful else max(1, -(-grid.before // grid.latents)) * grid.latents  # chunk 0 has fewer frames
    left: tuple[torch.Tensor, ...] = ()
    for chunk in (range(start, start + grid.latents), range(start + grid.latents, start + 2 * grid.latents)):
        is_first = chunk.start == start
        if not is_first and grid.hand_over is HandOver.NONE:
            return
        seen = range(max(0, chunk.start - grid.before), chunk.stop + grid.after)
        carried = left if is_stateful and not is_first else None
        latents = torch.zeros(len(seen), *shape, device=device)
        pictures, following = decoder.decode_chunk(latents, chunk=chunk, seen=seen, carried=carried)
        if grid.hand_over is HandOver.BLEND and not is_first:
            pictures = decoder.blend(pictures, left)
        to_levels(pictures)
        left = following
        del pictures, latents, carried, following  # as little is held while the next chunk is decoded
