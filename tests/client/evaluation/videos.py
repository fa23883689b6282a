"""Videos whose answers are known."""

import numpy as np


def gradient(frames, *, pace=2.0, side=48):
    """A pattern that slides at a steady pace, with a little grain of its own in every frame."""
    rng = np.random.default_rng(7)
    x, y = np.arange(side)[None, None, :], np.arange(side)[None, :, None]
    t = np.arange(frames)[:, None, None]
    wave = 128 + 60 * np.sin(2 * np.pi * (x - pace * t) / 24) + 40 * np.sin(2 * np.pi * y / 16)
    wave = wave + rng.normal(0, 2, wave.shape)
    return _coloured(wave)


def walk(frames, seed, *, side=12):
    """A video without seams: every step is a random one, of a size drawn alike everywhere."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(frames, side, side)) * rng.gamma(4.0, 0.5, size=(frames, 1, 1))
    # Pulled back to the middle, so that it never leaves the levels there are.
    state, states = np.zeros((side, side)), []
    for step in steps:
        state = 0.8 * state + step
        states.append(state)
    return _coloured(128 + 6 * np.array(states))


def planted(video, boundaries, *, by=12):
    """The same video, brighter by some levels in every second clip."""
    shifted = video.astype(np.int64)
    for start, stop in zip(boundaries[::2], [*boundaries[1::2], len(video)], strict=False):
        shifted[start:stop] += by
    return np.clip(shifted, 0, 255).astype(np.uint8)


def _coloured(levels):
    """``[F, H, W]`` levels as RGB, a little warmer than grey."""
    video = np.stack([levels, 0.9 * levels, 0.8 * levels], axis=-1)
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)
