"""Train `sprites` from nothing, or further from an exported folder: one command, seeded, resumable.

    torchrun --standalone --nproc-per-node 2 -m training.sprites.train --work /tmp/sprites

Without torchrun (`python -m training.sprites.train ...`) one process does it all. An interrupted run goes on
where its scratch folder left off. `--resume FOLDER` starts from exported weights alone: the autoencoder as it
is, the denoiser on clips.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, TextToVideoSDPipeline
from numpy.typing import NDArray

from training.sprites.autoencoder import normalise_latents, train_autoencoder
from training.sprites.data import latent_clips, random_frames
from training.sprites.denoiser import Plan, train_denoiser
from training.sprites.models import load_pipeline, make_pipeline, save_pipeline
from training.sprites.team import Team
from training.sprites.world import CLIP_FRAMES

ASSETS = Path("vinf_core/assets/sprites")
SETTINGS: dict[str, Any] = {
    "default_guidance_scale": 4.0,
    "default_steps": 25,
    "default_solver": "dpmsolver++",
    "frame_rate": 8,
    "trained_frame_count": CLIP_FRAMES,
    "licence": "Apache-2.0",
}
"""`vinf.json`: how the model is best used, by measurement (see README.md)."""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the embedded model `sprites`.")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder: latents, resumable state")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the exported pipeline")
    parser.add_argument("--resume", type=Path, help="start from this exported pipeline, on clips")
    parser.add_argument("--autoencoder-steps", type=int, default=2200)
    parser.add_argument("--frame-steps", type=int, help="default 1200, 0 with --resume")
    parser.add_argument("--clip-steps", type=int, default=4800)
    parser.add_argument("--rate", type=float, help="peak learning rate; default 1e-3, 3e-4 with --resume")
    parser.add_argument("--videos", type=int, default=1944, help="latent videos to train the denoiser on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of each process; default: the cores, shared out")
    return parser.parse_args()


def main() -> None:
    """Run the stages that are not done yet."""
    options = parse_arguments()
    team = Team.join()
    torch.set_num_threads(options.threads or max(1, (os.cpu_count() or 1) // team.size))
    torch.manual_seed(options.seed + team.rank)
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    log: dict[str, Any] = {"options": {key: str(value) for key, value in vars(options).items()}}
    began = time.monotonic()

    pipeline = load_pipeline(options.resume) if options.resume else make_pipeline()
    if not options.resume:
        log |= _autoencoder(pipeline, options, team)
    latents, specs = _latents(pipeline.vae, options, team)
    frame_steps = options.frame_steps if options.frame_steps is not None else (0 if options.resume else 1200)
    log["denoiser"] = train_denoiser(
        pipeline,
        latents,
        specs,
        Plan(frame_steps, options.clip_steps, options.rate or (3e-4 if options.resume else 1e-3)),
        team=team,
        seed=options.seed + 5,
        state=work / "denoiser.pt",
        export=lambda: save_pipeline(pipeline, options.out, SETTINGS),
    )
    if team.leads:
        save_pipeline(pipeline, options.out, SETTINGS)
        log["seconds"] = time.monotonic() - began
        (work / "log.json").write_text(json.dumps(log) + "\n")
        print(f"exported to {options.out} after {log['seconds'] / 60:.0f} min", flush=True)
    team.leave()


def _autoencoder(pipeline: TextToVideoSDPipeline, options: argparse.Namespace, team: Team) -> dict[str, Any]:
    """Train the autoencoder, or load the one that an earlier run finished."""
    done = options.work / "autoencoder-done.pt"
    log: dict[str, Any] = {}
    if not done.exists():
        train_autoencoder(
            pipeline.vae,
            random_frames(12_000, options.seed + 1),
            team=team,
            steps=options.autoencoder_steps,
            batch=16,
            peak_rate=2e-3,
            seed=options.seed + 2,
            state=options.work / "autoencoder.pt",
        )
        if team.leads:
            log["autoencoder_psnr"] = normalise_latents(pipeline.vae, random_frames(512, options.seed + 3))
            print(f"autoencoder: {log['autoencoder_psnr']:.2f} dB on fresh frames", flush=True)
            torch.save(pipeline.vae.state_dict(), done)
    team.wait()
    pipeline.vae.load_state_dict(torch.load(done))
    log["autoencoder"] = torch.load(options.work / "autoencoder.pt", weights_only=False)["history"]
    return log


def _latents(
    vae: AutoencoderKL, options: argparse.Namespace, team: Team
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Make the latent videos, each process its share, or load those of an earlier run."""
    files = [options.work / f"latents-{rank}-of-{team.size}.npz" for rank in range(team.size)]
    if not files[team.rank].exists():
        latents, specs = latent_clips(vae, options.videos, 2 * CLIP_FRAMES, options.seed + 4, team)
        np.savez(files[team.rank], latents=latents, specs=specs)
    team.wait()
    parts = [np.load(file) for file in files]
    return np.concatenate([part["latents"] for part in parts]), np.concatenate([part["specs"] for part in parts])


if __name__ == "__main__":
    main()
