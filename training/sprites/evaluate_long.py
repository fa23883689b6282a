"""Measure long videos of the whole service: held-out prompts, 96 frames, dual scope over several ranks.

    python -m training.sprites.evaluate_long --ranks 2 4 --prompts 16 --json training/sprites/long_quality.json

Every rank count gets a server of its own (`vinf serve`), every scope the same prompts and seeds. Besides the figures of
`evaluate` it reports the seams: how far the sprite's centre jumps across clip boundaries against inside clips.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from training.sprites import tracker
from training.sprites.evaluate import contact_sheet
from training.sprites.world import Frames, held_out_prompts
from vinf_client import Client
from vinf_client._local import LocalServer

Scope = tuple[int, int, int, float]
"""Window, global frames, phase timestep, phase bias."""


def parse_scope(text: str) -> Scope | None:
    """Read ``window,global frames,phase timestep,phase bias``, or ``default``."""
    if text == "default":
        return None
    window, global_frames, timestep, bias = text.split(",")
    return int(window), int(global_frames), int(timestep), float(bias)


def measure(videos: list[Frames], boundaries: list[list[int]], prompts: int) -> dict[str, Any]:
    """Score videos of the first held-out prompts; shares of frames, of videos for the motion."""
    wanted = held_out_prompts(prompts)
    scores = [tracker.score(video, prompt.spec) for video, prompt in zip(videos, wanted, strict=True)]
    figures: dict[str, Any] = {
        name: round(float(np.mean([getattr(score, name) for score in scores])), 4)
        for name in ("visible", "colour", "background", "motion")
    }
    drifts = [tracker.identity_drift(tracker.track(video)) for video in videos]
    figures["identity_drift"] = round(float(np.mean(drifts)), 2)
    if any(boundaries):
        tracks = [tracker.track(video).centres for video in videos]
        seams = tracker.pooled_seam_report(list(zip(tracks, boundaries, strict=True)))
        figures["median_jump_across_px"] = round(seams.across, 2)
        figures["median_jump_inside_px"] = round(seams.inside, 2)
        figures["seam_ratio"] = round(seams.ratio, 3)
        # Few boundaries make a noisy median: the numbers themselves let runs be pooled.
        figures["jumps_across_px"] = [
            round(float(np.hypot(*(track[frame] - track[frame - 1]))), 2)
            for track, frames in zip(tracks, boundaries, strict=True)
            for frame in frames
        ]
    return figures


def main() -> None:
    """Generate, score, print and write."""
    parser = argparse.ArgumentParser(description="Measure long videos of the embedded model over several ranks.")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--scopes", nargs="+", default=["default"], help="window,globals,timestep,bias or default")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sheets", type=Path, help="write a contact sheet of each scope's first videos here")
    options = parser.parse_args()
    results = []
    for ranks in options.ranks:
        with LocalServer(("--ranks", str(ranks))) as server, Client(server.address) as client:
            for text in options.scopes:
                began = time.monotonic()
                scope = parse_scope(text)
                names = ("window", "global_frames", "phase_timestep", "phase_bias")
                custom: Any = dict(zip(names, scope, strict=True)) if scope else {}
                videos, boundaries = [], []
                for prompt in held_out_prompts(options.prompts):
                    handle = client.submit(
                        prompt.text, frames=options.frames, seed=prompt.seed, steps=options.steps, **custom
                    )
                    videos.append(np.stack(list(handle.frames())))
                    boundaries.append([clip.start_frame_index for clip in handle.wait().clips][1:])
                row = {"ranks": ranks, "scope": text, "frames": options.frames, "videos": len(videos)}
                seconds = round(time.monotonic() - began, 1)
                results.append(row | measure(videos, boundaries, options.prompts) | {"seconds": seconds})
                print(json.dumps(results[-1]), flush=True)
                if options.sheets:
                    options.sheets.mkdir(parents=True, exist_ok=True)
                    contact_sheet(np.stack(videos[:6]), options.sheets / f"{ranks}-ranks-{text}.png", every=6)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
