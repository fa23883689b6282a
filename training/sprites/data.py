"""Training data: frames for the autoencoder, latent clips with captions for the denoiser."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from training.sprites import world
from training.sprites.progress import Progress
from training.sprites.team import Team


def random_frames(count: int, seed: int) -> NDArray[np.uint8]:
    """Render single frames of random videos of the training combinations, ``[N, 64, 64, 3]``."""
    rng = np.random.default_rng(seed)
    specs = world.training_specs()
    progress = Progress("frames", count)
    frames = np.empty((count, world.FRAME_SIZE, world.FRAME_SIZE, 3), dtype=np.uint8)
    for n in range(count):
        spec = specs[int(rng.integers(len(specs)))]
        frames[n] = world.render(spec, int(rng.integers(2**31)), start=int(rng.integers(64)), frames=1)[0]
        progress.tell(n + 1)
    return frames


def to_tensor(frames: NDArray[np.uint8]) -> torch.Tensor:
    """Turn uint8 ``[N, H, W, 3]`` into float32 ``[N, 3, H, W]`` in -1..1."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1.0


@torch.no_grad()
def latent_clips(
    vae: AutoencoderKL, count: int, frames: int, seed: int, team: Team
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Render and encode videos of the training combinations, all combinations equally often.

    Args:
        vae: The trained autoencoder.
        count: Videos of the whole team; this process makes every `team.size`-th of them.
        frames: Frames of a video.
        seed: Of the choice of videos.
        team: The processes that share the work.

    Returns:
        Latents times the scaling factor, ``[N, F, 4, 8, 8]``, and the index of each video's spec.
    """
    vae.eval()
    rng = np.random.default_rng(seed)
    specs = world.training_specs()
    order = np.concatenate([rng.permutation(len(specs)) for _ in range(count // len(specs) + 1)])[:count]
    seeds, starts = rng.integers(2**31, size=count), rng.integers(64, size=count)
    mine = range(team.rank, count, team.size)
    latents = np.empty((len(mine), frames, 4, world.FRAME_SIZE // 8, world.FRAME_SIZE // 8), dtype=np.float16)
    progress = Progress("latents", len(mine))
    for n, which in enumerate(mine):
        video = world.render(specs[int(order[which])], int(seeds[which]), start=int(starts[which]), frames=frames)
        with torch.autocast("cpu", torch.bfloat16):
            mode = vae.encode(to_tensor(video)).latent_dist.mode()
        latents[n] = (mode.float() * vae.config.scaling_factor).numpy().astype(np.float16)
        if team.leads:
            progress.tell(n + 1)
    return latents, order[mine.start :: mine.step].astype(np.int64)
