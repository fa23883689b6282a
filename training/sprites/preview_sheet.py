"""Draw previews beside the frames that became of them.

python -m training.sprites.preview_sheet docs/images/previews.png
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vinf_core.decode.levels import to_levels
from vinf_core.diffusion.preview import Preview
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.events import StageClock
from vinf_core.models.locate import ModelSource
from vinf_core.models.registry import load_model
from vinf_core.types import Clip, GenerationSpec, Stage

PROMPTS = (
    "a red ball bouncing over the sea",
    "a white star sliding over the city",
    "a yellow box hovering over the meadow",
)
FRAMES = 8
SIZE = 96
"""Pixels of a picture on the sheet."""

GAP, LINE = 4, 16
BACKGROUND, TEXT = (24, 24, 24), (220, 220, 220)


class Shown:
    """Keeps previews, and hears nothing else."""

    def __init__(self) -> None:
        self.previews: list[Preview] = []
        self.has_room = True

    def send(self, preview: Preview) -> None:
        """Keep it."""
        preview.wait()
        self.previews.append(preview)

    def started(self, generation_id: str, clips: tuple[Clip, ...], texts_at_once: int) -> None:
        """Nothing to tell."""

    def progress(self, generation_id: str, stage: Stage, completed_steps: int, step_seconds: float) -> None:
        """Nothing to tell."""


def make(
    generator: Generator, prompt: str, *, steps: int, every: int, seed: int
) -> tuple[list[Preview], NDArray[np.uint8]]:
    """Generate a clip: its previews, and the frames that they show."""
    limits, shown = generator.model.limits, Shown()
    spec = GenerationSpec(
        prompt=prompt,
        frame_count=FRAMES,
        width=limits.default_width,
        height=limits.default_height,
        seed=seed,
        step_count=steps,
        guidance_scale=limits.default_guidance_scale,
        scope=limits.default_scope,
        solver=limits.default_solver,
    )
    agree = ControlPlane(generator.topology, None).agree
    latents = generator.latents(
        "sheet", spec, generator.plan(spec), shown, agree, previews=shown, preview_interval=every
    )
    levels, _ = to_levels(generator.model.decode(latents[list(shown.previews[0].frames)]))
    return shown.previews, levels.numpy()


def draw(rows: list[tuple[str, list[Preview], NDArray[np.uint8]]]) -> Image.Image:
    """One row a prompt: the middle frame's previews, then the frame."""
    columns = len(rows[0][1]) + 1
    sheet = Image.new("RGB", (columns * (SIZE + GAP) + GAP, len(rows) * (SIZE + GAP + LINE) + LINE + GAP), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    titles = [*(f"step {preview.completed_steps}" for preview in rows[0][1]), "frame"]
    for column, title in enumerate(titles):
        pen.text((GAP + column * (SIZE + GAP), 2), title, TEXT)
    for row, (prompt, previews, frames) in enumerate(rows):
        top = LINE + row * (SIZE + GAP + LINE)
        pen.text((GAP, top + 2), prompt, TEXT)
        middle = len(frames) // 2
        pictures = [*(preview.pictures[middle].numpy() for preview in previews), frames[middle]]
        for column, picture in enumerate(pictures):
            image = Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            sheet.paste(image, (GAP + column * (SIZE + GAP), top + LINE))
    return sheet


def main() -> None:
    """Generate and draw."""
    parser = argparse.ArgumentParser(description="Draw previews beside their frames.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    topology = Topology.single()
    clock = StageClock(topology.device)
    model = load_model(ModelSource(model="sprites"), device=topology.device, dtype=torch.float32)
    generator = Generator(model, topology, Exchange(topology, None, clock), clock)
    rows = [
        (prompt, *make(generator, prompt, steps=options.steps, every=options.every, seed=options.seed))
        for prompt in PROMPTS
    ]
    draw(rows).save(options.path)


if __name__ == "__main__":
    main()
