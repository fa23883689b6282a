"""Which videos there are to make, in which order, and where each is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.settings import QUALITY_PROMPTS

STRIDE = 13
"""Prompts are taken this far apart: the first few already hold every shape, motion and background."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One video of the comparison."""

    mode: str
    frames: int
    prompt: int
    """Index into the list of held-out prompts."""
    steps: int

    @property
    def file(self) -> str:
        """Where its video is kept, below the folder."""
        return f"videos/{self.steps}-steps/{self.frames}-frames/{self.prompt:02}-{self.mode}.npz"


def cells(modes: Sequence[str], frames: Sequence[int], prompts: int, steps: int) -> Iterator[Cell]:
    """Every video once; modes take turns innermost, so that all hold the same prompts wherever the work is stopped."""
    for turn in range(prompts):
        for length in frames:
            for mode in modes:
                yield Cell(mode, length, turn * STRIDE % QUALITY_PROMPTS, steps)


def load_video(folder: Path, cell: Cell) -> NDArray[np.uint8] | None:
    """The video of a cell ``[F, H, W, 3]``, if it was made."""
    path = folder / cell.file
    if not path.exists():
        return None
    with np.load(path) as arrays:
        video: NDArray[np.uint8] = arrays["video"]
        return video


def save_video(folder: Path, cell: Cell, video: NDArray[np.uint8]) -> None:
    """Keep a video; a file that is there is whole."""
    path = folder / cell.file
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    with open(unfinished, "wb") as out:
        np.savez_compressed(out, video=video)
    os.replace(unfinished, path)
