"""Types and small image operations that the measures share; numpy only."""

import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]
"""One picture, ``[H, W, 3]``, RGB."""
Floats = npt.NDArray[np.float64]
Plane = npt.NDArray[np.float32]
"""One channel of a picture, ``[H, W]``, levels 0 to 255."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def luma(frame: Frame) -> Plane:
    """Brightness by ITU-R BT.601."""
    return np.asarray(frame.astype(np.float32) @ _LUMA)


def shrunk(plane: Plane, longest: int) -> tuple[Plane, int]:
    """Average whole blocks until the longer side is about ``longest``; return also the factor, at least 1."""
    factor = max(1, round(max(plane.shape) / longest))
    if factor == 1:
        return plane, 1
    height, width = (max(1, side // factor) for side in plane.shape)
    cut = plane[: height * factor, : width * factor]
    blocks = cut.reshape(height, cut.shape[0] // height, width, cut.shape[1] // width)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32), factor


def laplacian(plane: Plane) -> Plane:
    """Difference to the mean of the four neighbours, times four; edges repeat."""
    padded = np.pad(plane, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.asarray(around - 4 * plane)
