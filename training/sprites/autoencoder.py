"""Stage 1: train the autoencoder on single frames."""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch.nn import functional

from training.sprites.data import to_tensor
from training.sprites.progress import Progress
from training.sprites.team import Team

KL_WEIGHT = 5e-4
"""Per latent element, beside the mean absolute error per pixel channel."""


def cosine_rate(step: int, steps: int, peak: float, warm: int = 100) -> float:
    """Learning rate: linear rise over `warm` steps, then half a cosine down to 1 % of the peak."""
    rise = min(1.0, (step + 1) / warm)
    return peak * rise * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / steps))))


def train_autoencoder(
    vae: AutoencoderKL,
    frames: NDArray[np.uint8],
    *,
    team: Team,
    steps: int,
    batch: int,
    peak_rate: float,
    seed: int,
    state: Path,
) -> None:
    """Train in place, with a resumable scratch state at `state`.

    The state holds the history too: (step, loss, reconstruction PSNR in dB of that batch).
    """
    team.share_weights(vae)
    parameters = list(vae.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.98), weight_decay=1e-4)
    history: list[tuple[int, float, float]] = []
    first = 0
    if state.exists():
        saved = torch.load(state, weights_only=False)
        vae.load_state_dict(saved["vae"])
        optimiser.load_state_dict(saved["optimiser"])
        first, history = saved["step"], saved["history"]
    rng = np.random.default_rng([seed, team.rank, first])
    progress = Progress("autoencoder", steps, done=first)
    vae.train()
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(step, steps, peak_rate)
        target = to_tensor(frames[rng.integers(len(frames), size=batch // team.size)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(target).latent_dist
            picture = vae.decode(posterior.sample()).sample.float()
        mean, spread = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + spread.exp() - 1.0 - spread).mean()
        square = functional.mse_loss(picture, target)
        loss = functional.l1_loss(picture, target) + 4.0 * square + KL_WEIGHT * divergence
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        team.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        decibels = 10.0 * math.log10(4.0 / float(square.detach()))
        if step % 20 == 0:
            history.append((step, float(loss.detach()), decibels))
        if not team.leads:
            continue
        progress.tell(step + 1, loss=float(loss.detach()), psnr=decibels, kl=float(divergence.detach()))
        if (step + 1) % 250 == 0 or step + 1 == steps:
            state.parent.mkdir(parents=True, exist_ok=True)
            torch.save(
                {
                    "vae": vae.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step + 1,
                    "history": history,
                },
                state,
            )


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, frames: NDArray[np.uint8], batch: int = 64) -> float:
    """Shift and scale the latent channels, inside the 1 x 1 convolutions, to mean 0 and deviation 1.

    Stock pipelines know one scaling factor and no shift; folded in here, neither is needed.

    Returns:
        The reconstruction PSNR over the given frames, dB.
    """
    vae.eval()
    parts = [vae.encode(to_tensor(frames[n : n + batch])).latent_dist.mode() for n in range(0, len(frames), batch)]
    every = torch.cat(parts)
    mean, deviation = every.mean(dim=(0, 2, 3)), every.std(dim=(0, 2, 3))
    out, back = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    # post(z * deviation + mean) = post(old z)
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= deviation[None, :, None, None]
    out.weight[:channels] /= deviation[:, None, None, None]
    out.bias[:channels] = (out.bias[:channels] - mean) / deviation
    out.bias[channels:] -= 2.0 * deviation.log()
    total = 0.0
    for n in range(0, len(frames), batch):
        target = to_tensor(frames[n : n + batch])
        picture = vae.decode(vae.encode(target).latent_dist.mode()).sample.clamp(-1.0, 1.0)
        total += float((picture - target).square().mean(dim=(1, 2, 3)).sum())
    return 10.0 * math.log10(4.0 * len(frames) / total)
