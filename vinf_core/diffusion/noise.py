"""Per-frame noise from a counter: frame 17 starts from the same numbers whichever rank owns it.

Philox is keyed by (seed, frame); its numbers are drawn on the CPU, so that every device gets the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch


def frame_noise(seed: int, frames: Iterable[int], shape: tuple[int, ...]) -> torch.Tensor:
    """Draw standard normal noise for some frames.

    Args:
        seed: of the generation, 0 to 2^63 - 1.
        frames: global frame indices, at least one.
        shape: of one frame's latent.

    Returns:
        float32 ``[len(frames), *shape]`` on the CPU.
    """
    drawn = [
        np.random.Generator(np.random.Philox(key=np.array([seed, frame], dtype=np.uint64))).standard_normal(
            shape, dtype=np.float32
        )
        for frame in frames
    ]
    return torch.from_numpy(np.stack(drawn))
