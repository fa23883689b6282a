"""The procedural world of `sprites`: one textured shape that moves over a textured background.

A video is a function of a `Spec` (what the caption says) and a seed (everything that the caption does not
say: place, size, pace, texture). Every motion is stationary in time: any 16 frames of a video, taken
anywhere, show its class, and no frame is special. That is what lets a model trained on 16 frames be asked
for hundreds, and what lets the tracker judge any window of them.

numpy only: tests and the tracker must not wait for torch.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

FRAME_SIZE = 64
"""Pixels a side."""
CLIP_FRAMES = 16
"""Frames of a training clip."""

SHAPES = ("ball", "box", "star")
COLOURS = ("red", "yellow", "purple", "white")
MOTIONS = ("bouncing", "sliding", "circling", "hovering")
BACKGROUNDS = ("sea", "meadow", "city")

SPRITE_RGB: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 40),
    "yellow": (250, 215, 35),
    "purple": (185, 60, 225),
    "white": (245, 245, 245),
}

PHRASINGS = (
    "a {colour} {shape} {motion} over the {background}",
    "a {colour} {shape} is {motion} over the {background}",
    "one {colour} {shape} {motion} above the {background}",
    "{colour} {shape} {motion} over the {background}",
    "a video of a {colour} {shape} {motion} over the {background}",
    "over the {background} a {colour} {shape} is {motion}",
)
"""Captions of one spec; the first is the canonical one and the commonest in training."""

Floats = NDArray[np.float32]
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Spec:
    """What a caption says about a video."""

    shape: str
    colour: str
    motion: str
    background: str

    @property
    def indices(self) -> tuple[int, int, int, int]:
        """Positions of the four attributes in their tables."""
        return (
            SHAPES.index(self.shape),
            COLOURS.index(self.colour),
            MOTIONS.index(self.motion),
            BACKGROUNDS.index(self.background),
        )

    @property
    def held_out(self) -> bool:
        """Whether training never sees this combination (every pair of attributes it does see)."""
        return sum(self.indices) % 4 == 0

    def caption(self, phrasing: int = 0) -> str:
        """Say the spec in one of the phrasings of the grammar."""
        return PHRASINGS[phrasing].format(
            colour=self.colour, shape=self.shape, motion=self.motion, background=self.background
        )


def all_specs() -> list[Spec]:
    """All 144 combinations, in a fixed order."""
    return [Spec(*parts) for parts in product(SHAPES, COLOURS, MOTIONS, BACKGROUNDS)]


def training_specs() -> list[Spec]:
    """The 108 combinations that training sees."""
    return [spec for spec in all_specs() if not spec.held_out]


def held_out_specs() -> list[Spec]:
    """The 36 combinations that training never sees."""
    return [spec for spec in all_specs() if spec.held_out]


def vocabulary() -> list[str]:
    """Every word of the grammar, lower case, sorted."""
    words = {word for spec in all_specs() for n in range(len(PHRASINGS)) for word in spec.caption(n).split()}
    return sorted(words)


def random_caption(spec: Spec, rng: np.random.Generator) -> str:
    """Draw a phrasing: half of the time the canonical one."""
    phrasing = 0 if rng.random() < 0.5 else int(rng.integers(1, len(PHRASINGS)))
    return spec.caption(phrasing)


def render(spec: Spec, seed: int, *, start: int = 0, frames: int = CLIP_FRAMES) -> Frames:
    """Render frames ``start .. start + frames - 1`` of the one endless video of `spec` and `seed`.

    Returns:
        uint8 RGB, ``[F, 64, 64, 3]``.
    """
    rng = np.random.default_rng([seed, *spec.indices])
    radius = float(rng.uniform(11.0, 14.0))
    path = _Path(spec.motion, radius, rng)(np.arange(start, start + frames, dtype=np.float32))
    backdrop = BACKDROPS[spec.background](rng)
    axis = np.arange(FRAME_SIZE, dtype=np.float32) + 0.5
    x = axis[None, None, :] - path[:, 0, None, None]
    y = axis[None, :, None] - path[:, 1, None, None]
    cover = np.clip(_inside(spec.shape, x, y, radius) + 0.5, 0.0, 1.0)[..., None]
    picture = backdrop[None] * (1.0 - cover) + _sprite_paint(spec.colour, x, y, radius, rng) * cover
    return np.asarray(np.clip(np.rint(picture), 0, 255), dtype=np.uint8)


def centres(spec: Spec, seed: int, *, start: int = 0, frames: int = CLIP_FRAMES) -> Floats:
    """True sprite centres of `render` with the same arguments, px, ``[F, 2]`` as (x, y)."""
    rng = np.random.default_rng([seed, *spec.indices])
    radius = float(rng.uniform(11.0, 14.0))
    return _Path(spec.motion, radius, rng)(np.arange(start, start + frames, dtype=np.float32))


class _Path:
    """Centre of the sprite as a function of the frame number; at most about 6 px a frame."""

    def __init__(self, motion: str, radius: float, rng: np.random.Generator) -> None:
        self.motion = motion
        low, high = radius + 1.0, FRAME_SIZE - radius - 1.0
        self.period = float(rng.uniform(15.0, 19.0))
        self.phase = float(rng.uniform(0.0, 2.0 * np.pi))
        # Each motion has its usual place: things bounce off the ground, slide along it, circle in the middle
        # and hover above. So single frames already tell something of the motion word.
        middle = FRAME_SIZE / 2.0
        self.size = 0.0
        if motion == "bouncing":
            self.size = float(rng.uniform(20.0, 26.0))
            self.x, self.y = float(rng.uniform(middle - 4.0, middle + 4.0)), float(rng.uniform(high - 3.0, high))
        elif motion == "sliding":
            self.size = float(rng.uniform(11.0, 14.0))
            self.x, self.y = float(rng.uniform(middle - 3.0, middle + 3.0)), float(rng.uniform(high - 6.0, high))
        elif motion == "circling":
            self.size = float(rng.uniform(10.0, 13.0))
            self.x, self.y = (float(v) for v in rng.uniform(middle - 3.0, middle + 3.0, size=2))
        elif motion == "hovering":
            self.x, self.y = float(rng.uniform(18.0, FRAME_SIZE - 18.0)), float(rng.uniform(low, low + 6.0))
        else:
            raise ValueError(f"unknown motion {motion!r}")

    def __call__(self, time: Floats) -> Floats:
        turn = 2.0 * np.pi * time / self.period + self.phase
        x, y = np.full_like(time, self.x), np.full_like(time, self.y)
        if self.motion == "bouncing":
            y = y - self.size * np.abs(np.sin(turn / 2.0))
        elif self.motion == "sliding":
            x = x + self.size * np.sin(turn)
        elif self.motion == "circling":
            x, y = x + self.size * np.cos(turn), y + self.size * np.sin(turn)
        return np.stack([x, y], axis=-1).astype(np.float32)


def _inside(shape: str, x: Floats, y: Floats, radius: float) -> Floats:
    """Depth inside the outline in px (negative outside), ``[F, 64, 64]``."""
    if shape == "ball":
        return np.asarray(radius - np.hypot(x, y), dtype=np.float32)
    if shape == "box":
        return np.asarray(0.9 * radius - np.maximum(np.abs(x), np.abs(y)), dtype=np.float32)
    if shape == "star":
        # Fold the plane into one tenth of the star; its outline there is one straight edge.
        outer, inner = 1.3 * radius, 0.62 * radius
        tenth = np.pi / 5.0
        angle = np.abs((np.arctan2(x, -y) + tenth) % (2.0 * tenth) - tenth)
        distance = np.hypot(x, y)
        px, py = distance * np.cos(angle), distance * np.sin(angle)
        ex, ey = inner * np.cos(tenth) - outer, inner * np.sin(tenth)
        return np.asarray(((px - outer) * -ey + py * ex) / np.hypot(ex, ey), dtype=np.float32)
    raise ValueError(f"unknown shape {shape!r}")


def _sprite_paint(colour: str, x: Floats, y: Floats, radius: float, rng: np.random.Generator) -> Floats:
    """Two tones of one colour in a pattern of the video's own: the identity that must not be lost."""
    base = np.array(SPRITE_RGB[colour], dtype=np.float32) * float(rng.uniform(0.9, 1.04))
    dark = float(rng.uniform(0.5, 0.65))
    angle = float(rng.uniform(0.0, 2.0 * np.pi))
    along = (x * np.cos(angle) + y * np.sin(angle)) / radius
    across = (y * np.cos(angle) - x * np.sin(angle)) / radius
    pattern = int(rng.integers(4))
    if pattern == 0:  # two halves
        depth = along - 0.1
    elif pattern == 1:  # a band
        depth = 0.28 - np.abs(along)
    elif pattern == 2:  # a spot off the centre
        depth = 0.45 - np.hypot(along - 0.3, across)
    else:  # plain
        depth = along - 9.0
    tone = np.clip(depth * radius + 0.5, 0.0, 1.0)[..., None]
    return np.asarray(base * (1.0 - tone * (1.0 - dark)), dtype=np.float32)


def _grid() -> tuple[Floats, Floats]:
    axis = np.arange(FRAME_SIZE, dtype=np.float32)
    return np.broadcast_to(axis[None, :], (FRAME_SIZE, FRAME_SIZE)), np.broadcast_to(
        axis[:, None], (FRAME_SIZE, FRAME_SIZE)
    )


def _rgb(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def _blend(lower: Floats, upper: Floats, cover: Floats) -> Floats:
    """Lay `upper` over `lower` where `cover` (``[64, 64]``, clipped to 0..1) says so."""
    mask = np.clip(cover, 0.0, 1.0)[..., None]
    return np.asarray(lower * (1.0 - mask) + upper * mask, dtype=np.float32)


def _sea(rng: np.random.Generator) -> Floats:
    """Sky, horizon and wave bands."""
    x, y = _grid()
    horizon = float(rng.uniform(16.0, 34.0))
    sky = _rgb(95, 165, 230) * float(rng.uniform(0.9, 1.05)) + y[..., None] * 0.8
    length, sway = float(rng.uniform(8.0, 12.0)), float(rng.uniform(24.0, 40.0))
    waves = np.sin(
        2.0 * np.pi * y / length
        + 1.2 * np.sin(2.0 * np.pi * x / sway + float(rng.uniform(0, 6.283)))
        + float(rng.uniform(0, 6.283))
    )
    water = _rgb(20, 80, 155) * float(rng.uniform(0.85, 1.1)) + _rgb(12, 24, 30) * waves[..., None]
    return _blend(sky, water, y - horizon)


def _meadow(rng: np.random.Generator) -> Floats:
    """Three wavy layers of green."""
    x, y = _grid()
    light = float(rng.uniform(0.88, 1.06))
    field = np.broadcast_to(_rgb(140, 200, 85) * light, (FRAME_SIZE, FRAME_SIZE, 3))
    for colour, low, high in (((80, 155, 50), 14.0, 26.0), ((35, 105, 35), 36.0, 52.0)):
        ridge = float(rng.uniform(low, high)) + float(rng.uniform(3.0, 6.0)) * np.sin(
            2.0 * np.pi * x / float(rng.uniform(32.0, 64.0)) + float(rng.uniform(0, 6.283))
        )
        field = _blend(field, _rgb(*colour) * light, y - ridge)
    return field


def _city(rng: np.random.Generator) -> Floats:
    """A night sky and a skyline of towers with dim windows."""
    x, y = _grid()
    picture = _rgb(18, 14, 48) * float(rng.uniform(0.8, 1.2)) + y[..., None] * _rgb(0.45, 0.2, 0.6)
    edge = -float(rng.uniform(0.0, 8.0))
    while edge < FRAME_SIZE:
        width, top = float(rng.uniform(9.0, 15.0)), float(rng.uniform(16.0, 44.0))
        inside = np.minimum(np.minimum(x - edge, edge + width - 1.0 - x), y - top) + 0.5
        picture = _blend(picture, _rgb(44, 48, 62) * float(rng.uniform(0.75, 1.2)), inside)
        lit = ((x - edge) % 6.0 > 2.5) & ((y - top) % 9.0 > 4.5) & (rng.random() < 0.6)
        picture = _blend(picture, _rgb(88, 92, 100), np.minimum(inside - 1.0, lit.astype(np.float32)))
        edge += width
    return picture


BACKDROPS = {"sea": _sea, "meadow": _meadow, "city": _city}


@dataclass(frozen=True)
class Prompt:
    """One line of the fixed held-out list."""

    text: str
    spec: Spec
    seed: int


def held_out_prompts(count: int = 64) -> list[Prompt]:
    """The fixed list that quality is measured on; shorter lists are an even choice of the 64.

    All 36 held-out combinations in the canonical phrasing, then 28 of them in the other phrasings.
    """
    specs = held_out_specs()
    picks = [(spec, 0) for spec in specs]
    picks += [(specs[n * 36 // 28], 1 + n % (len(PHRASINGS) - 1)) for n in range(28)]
    prompts = [Prompt(spec.caption(phrasing), spec, 1000 + n) for n, (spec, phrasing) in enumerate(picks)]
    return [prompts[n * 64 // count] for n in range(count)]
