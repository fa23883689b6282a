"""How far apart two neighbouring frames are, in several ways: what is looked at where clips meet."""

import numpy as np

from vinf_client.evaluation.arrays import Floats, Frame, Plane, laplacian, shrunk

_WINDOW = 11
_SIGMA = 1.5
_SSIM_SIDE = 256
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def pixel_distance(before: Frame, after: Frame) -> float:
    """Mean absolute difference of all values, levels of 255."""
    return float(np.abs(before.astype(np.int16) - after.astype(np.int16)).mean())


def structure_distance(before: Plane, after: Plane) -> float:
    """1 − SSIM of brightness (Wang et al. 2004: Gaussian window of 11).

    Pictures are averaged down until the longer side is about 256 pixels; SSIM's authors go by the shorter one.
    """
    x, y = (shrunk(plane, _SSIM_SIDE)[0].astype(np.float64) for plane in (before, after))
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x * x) - mean_x**2
    var_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    similar = ((2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)) / (
        (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    )
    return float(1 - similar.mean())


def acceleration(before: Frame, middle: Frame, after: Frame) -> float:
    """Mean of |after − 2 middle + before|, levels of 255: a steady change cancels."""
    second = after.astype(np.int16) - 2 * middle.astype(np.int16) + before.astype(np.int16)
    return float(np.abs(second).mean())


def detail(plane: Plane) -> float:
    """Energy of the high frequencies: the mean square of the Laplacian of brightness, as a logarithm."""
    return float(np.log(np.square(laplacian(plane), dtype=np.float64).mean() + 1.0))


def colour_moments(frame: Frame) -> Floats:
    """Mean, standard deviation and cube root of the third moment of each channel, ``[9]``, levels of 255."""
    values = frame.reshape(-1, 3).astype(np.float64)
    mean = values.mean(axis=0)
    centred = values - mean
    return np.concatenate([mean, np.sqrt((centred**2).mean(axis=0)), np.cbrt((centred**3).mean(axis=0))])


def _blurred(plane: Floats) -> Floats:
    """Weighted by a Gaussian, only where the window lies within the picture; small pictures get a smaller window."""
    for axis in (0, 1):
        length = plane.shape[axis]
        taps = min(_WINDOW, length - 1 + length % 2)
        offsets = np.arange(taps) - taps // 2
        weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
        weights /= weights.sum()
        room = length - taps + 1
        parts = (weight * np.take(plane, range(k, k + room), axis=axis) for k, weight in enumerate(weights))
        plane = np.sum(list(parts), axis=0)
    return plane
