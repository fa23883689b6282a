"""Per-frame noise from a counter: frame 17 starts from the same numbers whichever rank owns it.

Philox is keyed by (seed, frame); its numbers are drawn on the CPU, so that every device gets the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from vinf_core.types import GenerationSpec, InitialNoise

SHUFFLED_FRAMES = 4
"""Frames that FreeNoise shuffles among themselves: the stride of its windows."""

_SHUFFLE_COUNTER = [0, 0, 0, 1]
"""Where the numbers of a shuffle begin: far behind those of the noise with the same key."""


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


def initial_noise(
    spec: GenerationSpec, frames: Sequence[int], shape: tuple[int, ...], trained_frame_count: int
) -> torch.Tensor:
    """Draw what some frames of a video start from.

    Args:
        spec: seed, scenes and kind of noise.
        frames: global frame indices, at least one.
        shape: of one frame's latent.
        trained_frame_count: clip length the model was trained on.

    Returns:
        float32 ``[len(frames), *shape]`` on the CPU.
    """
    if spec.scope.initial_noise is InitialNoise.INDEPENDENT:
        return frame_noise(spec.seed, frames, shape)
    bases = freenoise_bases(spec.seed, frames, spec.scenes, trained_frame_count)
    places = {base: place for place, base in enumerate(sorted(set(bases)))}
    drawn = frame_noise(spec.seed, places, shape)
    return drawn[[places[base] for base in bases]]


def freenoise_bases(
    seed: int, frames: Sequence[int], scenes: Sequence[range], trained_frame_count: int
) -> tuple[int, ...]:
    """Say whose noise each frame starts from (FreeNoise, arXiv 2310.15169: its noise, not its attention).

    With a window of L frames, as many as the model was trained on (16 in the paper), the first L frames of a scene have
    noise of their own. Every further block of 4 frames takes that of the 4 frames that begin L before it, in an order
    drawn from (seed, first frame of the block). So the noise of a frame follows from its place in the video alone.

    Args:
        seed: of the generation.
        frames: global frame indices.
        scenes: of the whole video; each begins anew.
        trained_frame_count: L; fewer than 4 count as 4.

    Returns:
        One frame a frame, of the same scene.
    """
    window = max(trained_frame_count, SHUFFLED_FRAMES)
    wanted = set(frames)
    bases: dict[int, int] = {}
    for scene in scenes:
        of_scene = wanted.intersection(scene)
        if not of_scene:
            continue
        base = list(scene[:window])
        for block in range(scene.start + window, max(of_scene) + 1, SHUFFLED_FRAMES):
            start = block - window - scene.start
            base += [base[start + place] for place in _shuffle(seed, block)]
        bases |= {frame: base[frame - scene.start] for frame in of_scene}
    return tuple(bases[frame] for frame in frames)


def _shuffle(seed: int, block: int) -> list[int]:
    """An order of `SHUFFLED_FRAMES` places; from raw words, which no release of NumPy may change."""
    key = np.array([seed, block], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=_SHUFFLE_COUNTER).random_raw(SHUFFLED_FRAMES)
    return [int(place) for place in np.argsort(words, kind="stable")]
