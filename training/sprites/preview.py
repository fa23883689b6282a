"""Fit the linear map from latents to pixels that previews are made with, by least squares.

python -m training.sprites.preview

Each position of a latent is paired with the mean colour of the true pixels it stands for. What the map gets wrong on
frames that it was not fitted on is written down beside it, in ``preview.json``.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from training.sprites.data import random_frames, to_tensor
from training.sprites.train import ASSETS


@torch.no_grad()
def latents_of(vae: AutoencoderKL, frames: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float64]:
    """Encode frames as the denoiser sees them, ``[N, C, h, w]``."""
    parts = [vae.encode(to_tensor(frames[n : n + batch])).latent_dist.mode() for n in range(0, len(frames), batch)]
    return (torch.cat(parts).float() * vae.config.scaling_factor).double().numpy()


def known(latents: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the map may look at, position by position: ``[N * h * w, 2 * C + 1]``."""
    means = np.broadcast_to(latents.mean(axis=(2, 3), keepdims=True), latents.shape)
    ones = np.ones_like(latents[:, :1])
    return np.concatenate([latents, means, ones], axis=1).transpose(0, 2, 3, 1).reshape(-1, 2 * latents.shape[1] + 1)


def mean_colours(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """The mean level, 0 to 1, of the pixels that each position of a latent stands for, ``[N * h * w, 3]``."""
    count, rows, columns, _ = frames.shape
    blocks = frames.reshape(count, height, rows // height, width, columns // width, 3)
    return blocks.mean(axis=(2, 4)).reshape(-1, 3) / 255.0


def main() -> None:
    """Fit, measure and write."""
    parser = argparse.ArgumentParser(description="Fit the preview map of the embedded model `sprites`.")
    parser.add_argument("--folder", type=Path, default=ASSETS)
    parser.add_argument("--frames", type=int, default=2000, help="to fit on; a quarter as many more to measure on")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(options.folder / "vae", dtype=torch.float32, local_files_only=True).eval()
    pairs = []
    for count, seed in ((options.frames, options.seed), (options.frames // 4, options.seed + 1)):
        frames = random_frames(count, seed)
        latents = latents_of(vae, frames)
        pairs.append((known(latents), mean_colours(frames, *latents.shape[2:])))
    seen, fresh = pairs
    solution, *_ = np.linalg.lstsq(*seen, rcond=None)
    solution = solution.round(6)
    errors = [math.sqrt(float(np.square((x @ solution).clip(0, 1) - y).mean())) for x, y in (seen, fresh)]
    weight, mean_weight = np.split(solution[:-1].T, 2, axis=1)
    report = {
        "weight": weight.tolist(),
        "mean_weight": mean_weight.tolist(),
        "bias": solution[-1].tolist(),
        "fitted_on_frames": options.frames,
        "rms_error": round(errors[1], 4),
        "rms_of_levels": round(math.sqrt(float(np.square(fresh[1] - fresh[1].mean(axis=0)).mean())), 4),
        "psnr_db": round(-20 * math.log10(errors[1]), 2),
    }
    print(f"rms error {errors[0]:.4f} where fitted, {errors[1]:.4f} on fresh frames")
    (options.folder / "preview.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
