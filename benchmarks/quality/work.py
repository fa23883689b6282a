"""The work of the comparison: one line a video in a file, so that it can be stopped at any time and goes on later."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality.cells import Cell, cells, load_video, save_video
from benchmarks.quality.modes import CLIP_FRAMES, MODES
from benchmarks.quality.provenance import MEASURES, MODEL, check_origin
from benchmarks.quality.scores import score
from benchmarks.quality.sheet import contact_sheet
from benchmarks.quality.studio import CPU, Studio
from benchmarks.quality.summary import GOOD, Line, reports
from benchmarks.report import Report, say
from benchmarks.settings import QUALITY_PROMPTS, QualitySettings
from training.sprites.world import held_out_prompts, render
from vinf_core.models.registry import load_model

LINES = "lines.jsonl"


def run(settings: QualitySettings) -> list[Report]:
    """Make what is missing, unless only a report is wanted; score it, and put everything that is there together.

    Raises:
        SettingsError: the folder holds videos of another model, or the sheet cannot be drawn.
    """
    folder = Path(settings.folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_origin(folder)
    wanted = list(cells(settings.modes, settings.frames, settings.prompts, settings.steps))
    if settings.report_only:
        wanted = [cell for cell in wanted if (folder / cell.file).exists()]
    _work(folder, wanted, settings.time_limit)
    found = read_lines(folder)
    lines = [found[key] for cell in wanted if (key := _key(cell)) in found]
    _compare(folder, lines)
    if settings.sheet:
        contact_sheet(folder, settings, Path(settings.sheet))
    return reports(lines)


def read_lines(folder: Path) -> dict[str, Line]:
    """Every line by what it was made of; a last line that was cut off is left out."""
    path = folder / LINES
    found: dict[str, Line] = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found[line["key"]] = line
    return found


def _compare(folder: Path, lines: list[Line]) -> None:
    """Add to each line how far its pictures are from those of the good mode, where both videos are kept."""
    for line in lines:
        both = [
            load_video(folder, Cell(mode, line["frames"], line["prompt"], line["steps"]))
            for mode in (line["mode"], GOOD)
        ]
        if both[0] is not None and both[1] is not None:
            line["from_good"] = float(np.abs(both[0].astype(np.int16) - both[1]).mean())


def _work(folder: Path, wanted: list[Cell], time_limit: float) -> None:
    torch.set_num_threads(1)
    ends = time.monotonic() + time_limit if time_limit else float("inf")
    done = read_lines(folder)
    missing = [cell for cell in wanted if _key(cell) not in done]
    say(f"{len(wanted) - len(missing)} of {len(wanted)} videos are there")
    prompts = held_out_prompts(QUALITY_PROMPTS)
    studio: Studio | None = None
    for cell in missing:
        if time.monotonic() >= ends:
            say("the time is up; called again, it goes on")
            return
        prompt = prompts[cell.prompt]
        video = load_video(folder, cell)
        seconds: float | None = None
        mode = MODES[cell.mode]
        if video is None and mode.rendered:
            video = render(prompt.spec, prompt.seed, frames=cell.frames)
            save_video(folder, cell, video)
        if video is None:
            if studio is None:
                studio = Studio(load_model(MODEL, device=CPU, dtype=torch.float32))
            began = time.process_time()
            video = studio.film(mode, prompt=prompt.text, seed=prompt.seed, frames=cell.frames, steps=cell.steps)
            seconds = round(time.process_time() - began, 2)
            save_video(folder, cell, video)
        line = {"key": _key(cell), **asdict(cell), "text": prompt.text, "seed": prompt.seed, "cpu_seconds": seconds}
        _append(folder, line | score(video, prompt))
        say(f"{cell.mode}, {cell.frames} frames, prompt {cell.prompt}: {prompt.text}")


def _append(folder: Path, line: dict[str, Any]) -> None:
    path = folder / LINES
    # A line that a killed run cut off must not swallow the next one.
    is_whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    with open(path, "a") as out:
        out.write(("" if is_whole else "\n") + json.dumps(line) + "\n")


def _key(cell: Cell) -> str:
    """All that decides about a line, in a folder that holds videos of one origin; see `provenance`."""
    return f"{cell.mode}/{cell.frames}/{cell.prompt}/{cell.steps}/{CLIP_FRAMES}/{MEASURES}"
