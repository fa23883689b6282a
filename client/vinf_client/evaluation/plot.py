"""A picture of what was found: the steps from frame to frame with the clips marked, and the looks that drift."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vinf_client._errors import InvalidRequestError, OutputError
from vinf_client.evaluation.assessment import Assessment
from vinf_client.evaluation.drift import LOOKS

MOST = 6
"""Videos that one picture shows."""

_SHOWN = {"pixels": "step between frames\n(mean abs. difference)", "acceleration": "change of the step\n(acceleration)"}
_SEAM, _CUT, _STEP, _DRIFT = "#d62728", "#7f7f7f", "#1f77b4", "#ff7f0e"


def check_matplotlib() -> None:
    """Raise InvalidRequestError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise InvalidRequestError(
            "--plot: matplotlib is missing; it comes with the eval extra: pip install 'vinf[eval]'"
        ) from error


def draw(path: Path, names: Sequence[str], found: Sequence[Assessment]) -> None:
    """Write a PNG file: a column a video, steps above, looks below; of more than `MOST` the first, and it says so.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    count = len(found)
    names, found = names[:MOST], found[:MOST]
    rows = len(_SHOWN) + len(LOOKS)
    figure = Figure(figsize=(max(9.0, 6.0 * len(found)), 1.7 * rows), layout="constrained")
    axes = figure.subplots(rows, len(found), squeeze=False, sharex="col")
    for column, (name, video) in enumerate(zip(names, found, strict=True)):
        for row, (distance, label) in enumerate(_SHOWN.items()):
            _steps(axes[row, column], video, distance, label)
        for row, (look, unit) in enumerate(LOOKS.items(), start=len(_SHOWN)):
            _look(axes[row, column], video, look, unit)
        axes[0, column].set_title(f"{name}\n{axes[0, column].get_title()}", fontsize=10)
        axes[-1, column].set_xlabel("frame")
    if count > MOST:
        figure.suptitle(f"the first {MOST} of {count} videos")
    marks = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if marks:
        figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=len(marks), fontsize=8)
    try:
        figure.savefig(path, format="png", dpi=110)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _steps(axis: Any, video: Assessment, distance: str, label: str) -> None:
    values = video.steps(distance).without_cuts()  # a step into another scene would dwarf all others
    places = np.arange(1, len(values) + 1)
    axis.plot(places, values, color=_STEP, linewidth=1)
    _mark(axis, video)
    if video.boundaries:
        seams = np.array(video.boundaries)
        axis.plot(seams, values[seams - 1], "o", color=_SEAM, markersize=4, label="step into a new clip")
        seam = video.seams[distance]
        ratio = "—" if seam.ratio is None else f"{seam.ratio:.2f}"
        chance = "" if seam.p is None else f", p = {seam.p:.2f}"
        axis.set_title(f"at clip boundaries {ratio} times the usual step nearby{chance}", fontsize=9)
    axis.set_ylabel(label, fontsize=8)
    axis.set_ylim(bottom=0)


def _look(axis: Any, video: Assessment, look: str, unit: str) -> None:
    values = getattr(video.observation, look)
    line = video.drift[look]
    frames = np.arange(len(values))
    axis.plot(frames, values, color=_STEP, linewidth=1)
    for scene in np.split(frames, list(video.cuts)):
        axis.plot(scene, values[scene].mean() + line.slope / 100 * (scene - scene.mean()), color=_DRIFT, linewidth=1.5)
    _mark(axis, video)
    change = "" if line.change is None else f" ({line.change:+.0%} over the video)"
    axis.set_title(f"{look}: {line.slope:+.3g} in 100 frames{change}", fontsize=9)
    axis.set_ylabel(unit, fontsize=8)


def _mark(axis: Any, video: Assessment) -> None:
    for index, boundary in enumerate(video.boundaries):
        label = "clip boundary" if index == 0 else None
        axis.axvline(boundary - 0.5, color=_SEAM, linewidth=0.8, linestyle="--", alpha=0.6, label=label)
    for index, cut in enumerate(video.cuts):
        axis.axvline(cut - 0.5, color=_CUT, linewidth=1.2, label="cut (not a seam)" if index == 0 else None)
