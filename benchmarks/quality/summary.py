"""The tables of the comparison, from the lines of its videos; only prompts that every mode holds count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.quality.modes import MODES, boundaries
from benchmarks.quality.statistics import auc, beyond_chance, estimate, larger_share
from benchmarks.report import Report, Value
from vinf_client.evaluation.observation import DISTANCES, REACHES
from vinf_client.evaluation.seams import Steps, seam

Line = dict[str, Any]
"""What is known of one video; see `scores.score`."""

GOOD, BROKEN = "dual", ("independent", "unsynchronised")
"""The mode that the broken ones are to be told from."""

LEAST_JUMP = 1.0
"""Pixels; smaller steps of the sprite count as this, or the jitter of one that hovers would seem a leap."""


def jump_ratio(line: Line) -> float | None:
    """The sprite's mean step across boundaries by its median step elsewhere, by the tracker."""
    places = {start - 1 for start in boundaries(line["frames"])}
    jumps = line["tracker"]["jumps"]
    across = [jump for place, jump in enumerate(jumps) if place in places and jump is not None]
    inside = [jump for place, jump in enumerate(jumps) if place not in places and jump is not None]
    return float(np.mean(across)) / max(float(np.median(inside)), LEAST_JUMP) if across and inside else None


def pace(line: Line) -> float | None:
    """The sprite's mean step in pixels, by the tracker."""
    jumps = [jump for jump in line["tracker"]["jumps"] if jump is not None]
    return float(np.mean(jumps)) if jumps else None


def _seam(distance: str) -> Callable[[Line], float | None]:
    return lambda line: line["seams"][distance]["ratio"]  # type: ignore[no-any-return]


def _drift(look: str) -> Callable[[Line], float | None]:
    return lambda line: abs(line["drift"][look])


SEAMS: dict[str, Callable[[Line], float | None]] = {distance: _seam(distance) for distance in DISTANCES}
DRIFTS: dict[str, Callable[[Line], float | None]] = {
    look: _drift(look) for look in ("luminance", "contrast", "saturation", "sharpness")
}
FIGURES: dict[str, Callable[[Line], float | None]] = (
    {f"seam: {name}": read for name, read in SEAMS.items()}
    | {f"drift: {name}": read for name, read in DRIFTS.items()}
    | {
        "flicker (1 − VBench's)": lambda line: 1 - line["flicker"],
        "motion": lambda line: line["motion"],
        "repetition": lambda line: line["repetition"],
        "tracker: step at boundaries": jump_ratio,
        "tracker: tone wanders": lambda line: line["tracker"]["identity_drift"],
        "tracker: wrong colour": lambda line: 1 - line["tracker"]["colour"],
        "tracker: wrong background": lambda line: 1 - line["tracker"]["background"],
        "tracker: wrong motion": lambda line: 1.0 - line["tracker"]["motion"],
    }
)
"""What is asked whether it can tell a broken mode: larger should be worse."""


BESIDE: dict[str, Callable[[Line], float | None]] = {
    "seam: pixels": SEAMS["pixels"],
    "seam: acceleration": SEAMS["acceleration"],
    "tracker: step at boundaries": jump_ratio,
    **{f"drift: {name}": read for name, read in DRIFTS.items()},
    "tracker: tone wanders": FIGURES["tracker: tone wanders"],
    "motion": FIGURES["motion"],
    "tracker: pace": pace,
}
"""What modes are compared by, prompt by prompt."""


def reports(lines: Sequence[Line]) -> list[Report]:
    """Five tables for each length; and nothing where no prompt has been made in every mode."""
    found = []
    for frames in sorted({line["frames"] for line in lines}):
        groups = _groups([line for line in lines if line["frames"] == frames])
        prompts = len(next(iter(groups.values()), ()))
        if prompts:
            title = f"{frames} frames, {prompts} prompts"
            found += [_seams(title, groups, frames), _drifts(title, groups), _world(title, groups)]
            if GOOD in groups and len(groups) > 1:
                found.append(_beside(title, groups))
            if GOOD in groups and set(BROKEN) & set(groups):
                found.append(_power(title, groups))
    return found


def _groups(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Lines by mode, in the order of `MODES`; the same prompts in each."""
    names = [name for name in MODES if any(line["mode"] == name for line in lines)]
    by_mode = {name: {line["prompt"]: line for line in lines if line["mode"] == name} for name in names}
    common = sorted(set.intersection(*(set(group) for group in by_mode.values()))) if by_mode else []
    return {name: [group[prompt] for prompt in common] for name, group in by_mode.items()}


def _seams(title: str, groups: dict[str, list[Line]], frames: int) -> Report:
    report = Report(
        title=f"Seams, {title}",
        notes=[
            "Step across a clip boundary by the usual step nearby, median over prompts [95 % interval]; 1: no seam.",
            f"p: the shift test over the {len(boundaries(frames))} boundaries of all prompts together.",
        ],
    )
    for name, lines in groups.items():
        row: dict[str, Value] = {"mode": name}
        for distance, read in SEAMS.items():
            row[distance] = _cell([read(line) for line in lines])
            steps = [
                Steps(
                    np.array(line["steps_by_distance"][distance], dtype=np.float64),
                    boundaries(frames),
                    reach=REACHES.get(distance, 0),
                )
                for line in lines
            ]
            row[f"p {distance}"] = seam(steps).p
        report.rows.append(row)
    return report


def _drifts(title: str, groups: dict[str, list[Line]]) -> Report:
    report = Report(
        title=f"Drift and motion, {title}",
        notes=[
            "Medians over prompts. Drift: size of the change in 100 frames. Motion: pixels a frame by block matching.",
            f"Repeats: share of videos with a period. From {GOOD}: mean difference of the pictures, levels of 255.",
        ],
    )
    for name, lines in groups.items():
        row: dict[str, Value] = {"mode": name}
        for look, read in DRIFTS.items():
            row[look] = _cell([read(line) for line in lines])
        row["flicker"] = _cell([line["flicker"] for line in lines])
        row["motion"] = _cell([line["motion"] for line in lines])
        row["fast motion"] = _cell([line["fast_motion"] for line in lines])
        row["repeats"] = _cell([float(line["period"] is not None) for line in lines], np.mean)
        row[f"from {GOOD}"] = _cell([line.get("from_good") for line in lines])
        report.rows.append(row)
    return report


def _world(title: str, groups: dict[str, list[Line]]) -> Report:
    report = Report(
        title=f"The world's tracker, {title}",
        notes=[
            "Means over prompts: shares of frames with a sprite, the right colour and background, and of videos with",
            "the right motion. Medians: tone, how far the sprite's colour strays from its own mean, levels of 255;",
            "pace, its mean step, pixels; at boundaries, its mean step there by its median step.",
        ],
    )
    for name, lines in groups.items():
        row: dict[str, Value] = {"mode": name}
        for share in ("visible", "colour", "background", "motion"):
            row[share] = _cell([float(line["tracker"][share]) for line in lines], np.mean)
        row["tone"] = _cell([line["tracker"]["identity_drift"] for line in lines])
        row["pace"] = _cell([pace(line) for line in lines])
        row["at boundaries"] = _cell([jump_ratio(line) for line in lines])
        report.rows.append(row)
    return report


def _beside(title: str, groups: dict[str, list[Line]]) -> Report:
    """Which mode has more of what, prompt by prompt."""
    prompts = len(groups[GOOD])
    share = beyond_chance(prompts)
    told = "no share of so few is" if share is None else f"shares up to {share:.2f} and from {1 - share:.2f} on are"
    report = Report(
        title=f"Beside {GOOD}, {title}",
        notes=[
            f"The share of prompts for which the mode has the larger figure than {GOOD}, from the same noise; {told}",
            "beyond chance (sign test, 5 %, each by itself).",
        ],
    )
    for name, lines in groups.items():
        if name != GOOD:
            row: dict[str, Value] = {"mode": name}
            for figure, read in BESIDE.items():
                row[figure] = larger_share([read(line) for line in lines], [read(line) for line in groups[GOOD]])
            report.rows.append(row)
    return report


def _power(title: str, groups: dict[str, list[Line]]) -> Report:
    """Can a figure tell a video of a broken mode from one of the good mode?"""
    report = Report(
        title=f"What the figures can tell, {title}",
        notes=[
            f"How often a video of the broken mode has the larger figure, over all pairs with {GOOD};",
            "1: always, 0.5: chance. From 0.9 on it tells, from 0.7 on it often tells, up to 0.3 it misleads, else it",
            "cannot tell. Same prompt: the share of prompts whose broken video has the larger figure, from one noise.",
        ],
    )
    for figure, read in FIGURES.items():
        row: dict[str, Value] = {"figure": figure}
        good = [read(line) for line in groups[GOOD]]
        for name in (name for name in BROKEN if name in groups):
            broken = [read(line) for line in groups[name]]
            found = auc(broken, good)
            row[name] = found
            row[f"{name}, in words"] = None if found is None else verdict(found)
            row[f"{name}, same prompt"] = larger_share(broken, good)
        report.rows.append(row)
    return report


def verdict(found: float) -> str:
    """An area under the curve in words."""
    if found >= 0.9:
        return "tells"
    if found >= 0.7:
        return "often tells"
    return "misleads" if found <= 0.3 else "cannot tell"


def _cell(samples: Sequence[float | None], statistic: Callable[..., Any] = np.median) -> str | None:
    found = estimate(samples, statistic)
    return None if found is None else str(found)
