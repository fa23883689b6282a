"""A picture of the same prompt in each mode: a row a mode, the same frames below each other, clip boundaries marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.quality.cells import cells, load_video
from benchmarks.quality.modes import boundaries
from benchmarks.settings import QualitySettings, SettingsError

_GAP = 2
_LABEL = 96
_HEAD = 14
_MOST = 20
_BACKGROUND, _TEXT, _SEAM = (24, 24, 27), (235, 235, 235), (255, 64, 64)


def contact_sheet(folder: Path, settings: QualitySettings, path: Path) -> None:
    """Draw the first prompt of the shortest videos that all modes hold.

    Raises:
        SettingsError: some mode has no video yet.
    """
    frames = min(settings.frames)
    wanted = list(cells(settings.modes, [frames], 1, settings.steps))
    videos = [load_video(folder, cell) for cell in wanted]
    missing = [cell.mode for cell, video in zip(wanted, videos, strict=True) if video is None]
    if missing:
        raise SettingsError(f"--sheet: there are no videos yet of {', '.join(missing)} with {frames} frames")
    rows = [video for video in videos if video is not None]
    shown = chosen_frames(frames)
    side = rows[0].shape[1]
    width = _LABEL + len(shown) * (side + _GAP)
    sheet = Image.new("RGB", (width, _HEAD + len(rows) * (side + _GAP)), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    starts = set(boundaries(frames))
    for column, frame in enumerate(shown):
        left = _LABEL + column * (side + _GAP)
        pen.text((left + 1, 0), str(frame), fill=_SEAM if frame in starts else _TEXT, font=font)
    for row, (cell, video) in enumerate(zip(wanted, rows, strict=True)):
        top = _HEAD + row * (side + _GAP)
        pen.text((2, top + side // 2 - 6), cell.mode, fill=_TEXT, font=font)
        for column, frame in enumerate(shown):
            picture = Image.fromarray(np.ascontiguousarray(video[frame]))
            sheet.paste(picture, (_LABEL + column * (side + _GAP), top))
    for column, frame in enumerate(shown):
        if frame in starts:
            x = _LABEL + column * (side + _GAP) - _GAP // 2 - 1
            pen.line((x, 0, x, sheet.height), fill=_SEAM, width=2)
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--sheet: {path} cannot be written: {error}") from error


def chosen_frames(frames: int) -> list[int]:
    """Both sides of the first boundaries, and an even spread of the others."""
    near = {frame for start in boundaries(frames)[:3] for frame in (start - 2, start - 1, start, start + 1)}
    room = max(2, _MOST - len(near))
    return sorted(near | {round(place * (frames - 1) / (room - 1)) for place in range(room)})
