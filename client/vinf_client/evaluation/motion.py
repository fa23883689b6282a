"""Motion by block matching: how far each block of a picture has moved, and what is left once that is undone.

Blocks of 8 × 8 pixels of the brightness, averaged down to about 128 pixels a side, are looked for in the frame before
within 6 pixels to each side. A still place wins unless another is better by 2 levels: flat blocks fit anywhere, and
shall not seem to move. Optical flow would follow rotation and finer motion, but needs a library.
"""

import numpy as np

from vinf_client.evaluation.arrays import Plane, shrunk

_SIDE = 128
_BLOCK = 8
_REACH = 6
_STILL = 2.0
"""Levels of 255 a place must be better than the still one, a block's mean."""


def follow(before: Plane, after: Plane) -> tuple[float, float]:
    """Match the blocks of ``after``.

    Returns:
        The mean distance that blocks moved, in pixels of the picture as it came, and the mean absolute difference that
        is left when every block is taken from where it was, levels of 255.
    """
    (old, factor), (new, _) = shrunk(before, _SIDE), shrunk(after, _SIDE)
    block = min(_BLOCK, *new.shape)
    height, width = (side // block * block for side in new.shape)
    padded = np.pad(old, _REACH, mode="edge")
    best = _errors(new, old, height, width, block) - _STILL
    left = best + _STILL
    distance = np.zeros_like(best)
    for down in range(-_REACH, _REACH + 1):
        for right in range(-_REACH, _REACH + 1):
            if not down and not right:
                continue
            shifted = padded[_REACH + down : _REACH + down + height, _REACH + right : _REACH + right + width]
            errors = _errors(new, shifted, height, width, block)
            better = errors < best
            best = np.where(better, errors, best)
            left = np.where(better, errors, left)
            distance = np.where(better, np.hypot(down, right), distance)
    return float(distance.mean()) * factor, float(left.mean())


def _errors(new: Plane, old: Plane, height: int, width: int, block: int) -> Plane:
    """Mean absolute difference by block."""
    difference = np.abs(new[:height, :width] - old[:height, :width])
    return np.asarray(difference.reshape(height // block, block, width // block, block).mean(axis=(1, 3)))
