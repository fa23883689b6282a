"""The committed preview map against the true frames."""

import math

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from training.sprites.data import random_frames
from training.sprites.preview import known, latents_of, mean_colours
from vinf_core.models.locate import ASSETS
from vinf_core.models.preview_map import PreviewMap


def decibels(levels: np.ndarray, truth: np.ndarray) -> float:
    return -10 * math.log10(float(np.square(levels - truth).mean()))


@pytest.mark.fast
def test_the_map_shows_roughly_what_the_true_frame_does():
    """18.1 dB where it was measured; the mean colour alone has 12.6 dB."""
    frames = random_frames(64, seed=77)
    vae = AutoencoderKL.from_pretrained(ASSETS / "sprites" / "vae", dtype=torch.float32, local_files_only=True).eval()
    latents = latents_of(vae, frames)
    truth = mean_colours(frames, *latents.shape[2:])
    preview_map = PreviewMap.from_file(ASSETS / "sprites" / "preview.json")
    pictures = preview_map.pictures(torch.from_numpy(latents)).numpy().reshape(-1, 3) / 255
    assert decibels(pictures, truth) > 17
    assert decibels(truth.mean(axis=0), truth) < 14
    # The script that fits it and the engine that uses it mean the same numbers.
    weights = np.concatenate([preview_map.weight.T, preview_map.mean_weight.T, preview_map.bias[None]])
    np.testing.assert_allclose((known(latents) @ weights).clip(0, 1), pictures, atol=0.6 / 255)


@pytest.mark.fast
def test_blocks_of_pixels_are_averaged():
    frame = np.zeros((1, 16, 8, 3), np.uint8)
    frame[0, :8, :, 0] = 255
    frame[0, 8:, :4, 1] = 255
    assert mean_colours(frame, 2, 1).tolist() == [[1, 0, 0], [0, 0.5, 0]]
