"""The world's own judge: finds the sprite, its colour, the background and the kind of motion in any video.

It knows the colours of the world and nothing of how a video was made. It is built to bear the blur of a
small autoencoder: colours are read by hue, places by the centre of mass of the densest patch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.sprites.world import COLOURS, FRAME_SIZE, Spec

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]

PATCH = 25
"""Side in px of the square in which the densest patch of sprite colour is looked for."""
LEAST_AREA = 70
"""Pixels of sprite colour in the patch from which on the sprite counts as visible (whole ones have 250-700)."""
STILL_RANGE = 7.0
"""Range in px of a coordinate under which the sprite counts as still along it."""


@dataclass(frozen=True)
class Track:
    """What the tracker saw, frame by frame."""

    visible: NDArray[np.bool_]
    """``[F]``."""
    colours: list[str | None]
    """Name of the sprite's colour, None where no sprite is visible."""
    centres: Floats
    """Sprite centres (x, y), px, ``[F, 2]``; NaN where no sprite is visible."""
    tones: Floats
    """Mean sprite RGB, ``[F, 3]``; NaN where no sprite is visible. It should not drift: it is identity."""
    areas: NDArray[np.int64]
    """Pixels of the sprite, ``[F]``."""
    backgrounds: list[str]
    """Name of the background, one a frame."""

    @property
    def motion(self) -> str | None:
        """Class of the motion over all the frames, None if the sprite is visible in less than half of them."""
        return classify_motion(self.centres)


@dataclass(frozen=True)
class Score:
    """How well a video keeps to its caption."""

    visible: float
    """Share of frames with a sprite."""
    colour: float
    """Share of frames with a sprite of the right colour."""
    background: float
    """Share of frames with the right background."""
    motion: bool
    """Whether the video's motion is of the right class."""


@dataclass(frozen=True)
class SeamReport:
    """Centre jumps across clip boundaries against jumps inside clips, px."""

    across: float
    """Median jump over the boundaries."""
    inside: float
    """Median jump between the other neighbouring frames."""
    ratio: float
    """``across / max(inside, 1 px)``; a sprite that stands still must not make every jitter a teleport."""

    @property
    def ok(self) -> bool:
        """Whether no teleport shows: jumps across are at most 1.5 times those inside."""
        return self.ratio <= 1.5


def track(frames: Frames) -> Track:
    """Judge every frame of ``[F, 64, 64, 3]`` on its own."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (FRAME_SIZE, FRAME_SIZE, 3):
        raise ValueError(f"expected uint8 [F, {FRAME_SIZE}, {FRAME_SIZE}, 3], got {frames.dtype} {frames.shape}")
    picture = frames.astype(np.float32)
    masks = _colour_masks(picture)
    corners, counts = _densest_patch(masks)
    count = len(frames)
    visible = np.zeros(count, dtype=np.bool_)
    colours: list[str | None] = [None] * count
    centres = np.full((count, 2), np.nan, dtype=np.float32)
    tones = np.full((count, 3), np.nan, dtype=np.float32)
    areas = np.zeros(count, dtype=np.int64)
    backgrounds: list[str] = []
    for n in range(count):
        best = int(counts[n].argmax())
        rest = np.ones((FRAME_SIZE, FRAME_SIZE), dtype=np.bool_)
        if counts[n, best] >= LEAST_AREA:
            x, y = _centre(masks[n, best], corners[n, best])
            near = _square(x, y, PATCH // 2 + 4)
            own = masks[n, best] & near
            visible[n], colours[n], centres[n] = True, COLOURS[best], (x, y)
            tones[n], areas[n] = picture[n][own].mean(axis=0), int(own.sum())
            rest &= ~near
        backgrounds.append(_background(picture[n][rest]))
    return Track(visible, colours, centres, tones, areas, backgrounds)


def classify_motion(centres: Floats) -> str | None:
    """Name the motion of a path ``[F, 2]`` (NaN rows are skipped) by how far it goes along each axis."""
    seen = centres[~np.isnan(centres[:, 0])]
    if len(seen) < max(4, len(centres) // 2):
        return None
    # One wild frame must not decide: drop the two outermost values at either end of long paths.
    trim = 0.0 if len(seen) < 12 else 100.0 / len(seen)
    width, height = (np.percentile(seen, 100.0 - trim, axis=0) - np.percentile(seen, trim, axis=0)).tolist()
    if width < STILL_RANGE and height < STILL_RANGE:
        return "hovering"
    if height < 0.45 * width:
        return "sliding"
    if width < 0.45 * height:
        return "bouncing"
    return "circling"


def score(frames: Frames, spec: Spec) -> Score:
    """Score a video against what its caption said."""
    seen = track(frames)
    return Score(
        visible=float(seen.visible.mean()),
        colour=float(np.mean([colour == spec.colour for colour in seen.colours])),
        background=float(np.mean([name == spec.background for name in seen.backgrounds])),
        motion=seen.motion == spec.motion,
    )


def identity_drift(seen: Track) -> float:
    """How far the sprite's tone wanders over a video: the RMS distance of its mean RGB from the video's own mean."""
    if not seen.visible.any():
        return float("nan")
    return float(np.sqrt(np.nanmean(np.square(seen.tones - np.nanmean(seen.tones, axis=0)))))


def seam_report(centres: Floats, boundaries: list[int]) -> SeamReport:
    """Compare jumps across boundaries with jumps inside clips.

    Args:
        centres: Sprite centres, px, ``[F, 2]``, NaN where unseen. Several videos may be pooled by
            `pooled_seam_report`.
        boundaries: First frame of each clip but the first.
    """
    return pooled_seam_report([(centres, boundaries)])


def pooled_seam_report(videos: list[tuple[Floats, list[int]]]) -> SeamReport:
    """Make one `seam_report` over the jumps of several videos."""
    across: list[Floats] = []
    inside: list[Floats] = []
    for centres, boundaries in videos:
        jumps = np.hypot(*np.diff(centres, axis=0).T).astype(np.float32)
        seam = np.zeros(len(jumps), dtype=np.bool_)
        seam[[frame - 1 for frame in boundaries if 0 < frame < len(centres)]] = True
        seen = ~np.isnan(jumps)
        across.append(jumps[seam & seen])
        inside.append(jumps[~seam & seen])
    over, under = np.concatenate(across), np.concatenate(inside)
    if not len(over) or not len(under):
        raise ValueError("no boundary, or no sprite, to measure at")
    wide, usual = float(np.median(over)), float(np.median(under))
    return SeamReport(wide, usual, wide / max(usual, 1.0))


def _colour_masks(picture: Floats) -> NDArray[np.bool_]:
    """Pixels of each sprite colour, ``[F, 4, 64, 64]`` in the order of `COLOURS`."""
    r, g, b = picture[..., 0], picture[..., 1], picture[..., 2]
    low, high = picture.min(axis=-1), picture.max(axis=-1)
    masks = {
        "red": (r > 85) & (r > 1.9 * g) & (r > 1.9 * b),
        "yellow": (r > 95) & (r > 0.97 * g) & (g > 0.55 * r) & (b < 0.62 * g),
        "purple": (b > 85) & (r > 70) & (g < 0.72 * r) & (g < 0.62 * b) & (r > 0.55 * b),
        "white": (low > 100) & (low > 0.8 * high),
    }
    return np.stack([masks[name] for name in COLOURS], axis=1)


def _densest_patch(masks: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Centre (x, y) and count of the fullest patch of each mask: ``[F, C, 2]`` and ``[F, C]``."""
    half = PATCH // 2
    padded = np.pad(masks, ((0, 0), (0, 0), (half + 1, half), (half + 1, half))).astype(np.int64)
    sums = padded.cumsum(axis=2).cumsum(axis=3)
    boxes = sums[..., PATCH:, PATCH:] - sums[..., :-PATCH, PATCH:] - sums[..., PATCH:, :-PATCH]
    boxes = boxes + sums[..., :-PATCH, :-PATCH]
    flat = boxes.reshape(*boxes.shape[:2], -1)
    place = flat.argmax(axis=-1)
    return np.stack([place % FRAME_SIZE, place // FRAME_SIZE], axis=-1), flat.max(axis=-1)


def _square(x: float, y: float, half: int) -> NDArray[np.bool_]:
    axis = np.arange(FRAME_SIZE)
    rows, columns = np.abs(axis[:, None] - y) <= half, np.abs(axis[None, :] - x) <= half
    return np.asarray(rows & columns, dtype=np.bool_)


def _centre(mask: NDArray[np.bool_], start: NDArray[np.int64]) -> tuple[float, float]:
    """Centre of mass around a first guess, moved after the mass until it rests (mean shift)."""
    x, y = float(start[0]), float(start[1])
    for _ in range(4):
        rows, columns = np.nonzero(mask & _square(x, y, PATCH // 2 + 2))
        if not len(rows):
            break
        x, y = float(columns.mean()), float(rows.mean())
    return x + 0.5, y + 0.5


def _background(pixels: Floats) -> str:
    """Name the background by the middle colour of the pixels that are not the sprite's, ``[N, 3]``."""
    r, g, b = np.median(pixels, axis=0).tolist()
    if max(r, g, b) < 88:
        return "city"
    return "meadow" if g > b else "sea"
