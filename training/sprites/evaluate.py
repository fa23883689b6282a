"""Measure an exported folder with the stock pipeline on the held-out prompts.

python -m training.sprites.evaluate --folder vinf_core/assets/sprites --json training/sprites/quality.json
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, TextToVideoSDPipeline
from numpy.typing import NDArray
from PIL import Image

from training.sprites import tracker
from training.sprites.models import load_pipeline
from training.sprites.world import CLIP_FRAMES, Prompt, held_out_prompts

SOLVERS = ("dpmsolver++", "ddim")


def set_solver(pipeline: TextToVideoSDPipeline, solver: str) -> None:
    """Change the pipeline's scheduler, keeping the noise schedule it was saved with."""
    config = pipeline.scheduler.config
    if solver == "ddim":
        pipeline.scheduler = DDIMScheduler.from_config(config)
    else:
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
            config, algorithm_type="dpmsolver++", solver_order=2
        )


@torch.no_grad()
def generate(
    pipeline: TextToVideoSDPipeline, prompts: list[Prompt], *, guidance: float, steps: int, frames: int, batch: int = 8
) -> NDArray[np.uint8]:
    """Generate every prompt with its own seed, ``[N, F, 64, 64, 3]``."""
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for n in range(0, len(prompts), batch):
        some = prompts[n : n + batch]
        out = pipeline(
            [prompt.text for prompt in some],
            num_frames=frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(prompt.seed) for prompt in some],
            output_type="np",
        ).frames
        parts.append(np.rint(out * 255.0).astype(np.uint8))
        print(f"{min(n + batch, len(prompts))}/{len(prompts)} videos", flush=True)
    return np.concatenate(parts)


def measure(videos: NDArray[np.uint8], prompts: list[Prompt]) -> dict[str, Any]:
    """Score videos; shares of frames, and of videos for the motion, overall and by motion class."""
    scores = [tracker.score(video, prompt.spec) for video, prompt in zip(videos, prompts, strict=True)]
    classes: dict[str, list[bool]] = defaultdict(list)
    for score, prompt in zip(scores, prompts, strict=True):
        classes[prompt.spec.motion].append(score.motion)
    jumps = [np.hypot(*np.diff(tracker.track(video).centres, axis=0).T) for video in videos]
    return {
        "videos": len(videos),
        "visible": float(np.mean([score.visible for score in scores])),
        "colour": float(np.mean([score.colour for score in scores])),
        "background": float(np.mean([score.background for score in scores])),
        "motion": float(np.mean([score.motion for score in scores])),
        "motion_by_class": {name: float(np.mean(right)) for name, right in sorted(classes.items())},
        "median_jump_px": float(np.nanmedian(np.concatenate(jumps))),
        "largest_jump_px": float(np.nanmax(np.concatenate(jumps))),
    }


def contact_sheet(videos: NDArray[np.uint8], path: Path, every: int = 2) -> None:
    """Save one row of frames a video."""
    rows = [np.concatenate(list(video[::every]), axis=1) for video in videos]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)


def main() -> None:
    """Generate, score, print and write."""
    parser = argparse.ArgumentParser(description="Measure the embedded model `sprites`.")
    parser.add_argument("--folder", type=Path, default=Path("vinf_core/assets/sprites"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--guidance", type=float, nargs="+", help="default: that of the folder's vinf.json")
    parser.add_argument("--steps", type=int, help="likewise")
    parser.add_argument("--solver", choices=SOLVERS, nargs="+", help="likewise")
    parser.add_argument("--frames", type=int, default=CLIP_FRAMES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sheet", type=Path, help="write a picture of the last run's videos here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = json.loads((options.folder / "vinf.json").read_text())
    pipeline = load_pipeline(options.folder)
    prompts = held_out_prompts(options.prompts)
    results = []
    for solver in options.solver or [settings["default_solver"]]:
        for guidance in options.guidance or [settings["default_guidance_scale"]]:
            began = time.monotonic()
            steps = options.steps or settings["default_steps"]
            set_solver(pipeline, solver)
            videos = generate(pipeline, prompts, guidance=guidance, steps=steps, frames=options.frames)
            run = {"solver": solver, "guidance_scale": guidance, "steps": steps, "frames": options.frames}
            results.append(run | measure(videos, prompts) | {"seconds": round(time.monotonic() - began, 1)})
            print(json.dumps(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    if options.sheet:
        contact_sheet(videos, options.sheet)


if __name__ == "__main__":
    main()
