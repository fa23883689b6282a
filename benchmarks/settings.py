"""What a benchmark is asked to measure; checked once, and sent to every rank as it is."""

from __future__ import annotations

import os
from dataclasses import dataclass

EMBEDDED = ("sprites",)
"""Models that come with their weights."""

RANDOM = ("mid", "videocrafter2")
"""Architectures that are built with random weights: cost and memory do not depend on their values."""

FULL_SIZE = ("videocrafter2", "zeroscope-v2", "modelscope")
COUNTED = (*FULL_SIZE, "animatediff-v2")
"""Published models at full size, whose parts are known here without their weights."""

TOY = "toy"
"""A model of a few thousand parameters in the layout of VideoCrafter2, to try a command on a CPU."""

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")


class SettingsError(ValueError):
    """A value that cannot be measured; the message names the option and the values it takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One benchmark's arguments."""

    model: str = "sprites"
    frames: tuple[int, ...] = (16, 96)
    """Lengths to measure."""
    width: int | None = None
    """Pixels; None: the model's default."""
    height: int | None = None
    """Pixels; None: the model's default."""
    ranks: int = 1
    dtype: str = "float32"
    device: str = "auto"
    threads: int = 1
    """Threads of a rank on a CPU."""
    texts: int = 2
    """Texts a step is computed for: 2 with guidance, 1 without."""
    repeats: int = 5
    options: bool = False
    """Whether every option of the engine is also measured switched off."""

    def __post_init__(self) -> None:
        known = EMBEDDED + RANDOM
        if self.model not in known:
            raise SettingsError(f"model: {self.model!r} is not one of {', '.join(known)}")
        if not self.frames or min(self.frames) < 1:
            raise SettingsError("--frames: wants whole numbers of 1 or more, separated by commas")
        for name in ("ranks", "threads", "repeats"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name}: {getattr(self, name)} is less than 1")
        if self.texts not in (1, 2):
            raise SettingsError(f"--texts: {self.texts} is not 1 (no guidance) or 2 (guidance)")
        for name, allowed in (("dtype", DTYPES), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise SettingsError(f"--{name}: {getattr(self, name)!r} is not one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliverySettings:
    """What `vinf bench delivery` is asked to measure."""

    frames: int = 16
    """Of the large video."""
    width: int = 1920
    height: int = 1440
    readers: int = 4
    """Of large frames."""
    small_readers: int = 50
    watchers: int = 1000
    creators: int = 200
    """Clients that ask for generations far too often."""
    seconds: float = 5.0
    """Of each load in a turn."""
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("frames", "width", "height", "readers", "small_readers", "watchers", "creators", "repeats"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name.replace('_', '-')}: {getattr(self, name)} is less than 1")
        if not 0.1 <= self.seconds <= 600:
            raise SettingsError(f"--seconds: {self.seconds:g} is not in [0.1, 600]")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientsSettings:
    """What `vinf bench clients` is asked to measure."""

    frames: int = 128
    """Of the videos that are read at full speed."""
    repeats: int = 3
    seconds: float = 10.0
    """Of the video that is read while it is made."""
    cpp: str = ""
    """The program `vinf_pull_bench` of the C++ SDK; empty: C++ is not measured."""

    def __post_init__(self) -> None:
        for name in ("frames", "repeats"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name}: {getattr(self, name)} is less than 1")
        if not 1 <= self.seconds <= 600:
            raise SettingsError(f"--seconds: {self.seconds:g} is not in [1, 600]")
        if self.cpp and not os.access(self.cpp, os.X_OK):
            raise SettingsError(f"--cpp: {self.cpp} is no program")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsSettings:
    """What `vinf bench metrics` is asked to measure."""

    frames: int = 96
    """Of the video whose steps are counted."""
    ranks: int = 2
    steps: int = 8
    """That are counted, after a first one."""
    repeats: int = 5
    """Batches of calls that are timed."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("frames", "ranks", "steps", "repeats"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name}: {getattr(self, name)} is less than 1")
        if self.device not in ("cpu", "cuda"):
            raise SettingsError(f"--device: {self.device!r} is not one of cpu, cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class CapacitySettings:
    """What `vinf bench capacity` is asked to count."""

    models: tuple[str, ...] = COUNTED
    ranks: tuple[int, ...] = (1, 2, 4, 8)
    gigabytes: tuple[int, ...] = (24, 48, 80)
    """Memory of a GPU, in 10⁹ bytes."""
    dtype: str = "float16"

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in COUNTED:
                raise SettingsError(f"--models: {name!r} is not one of {', '.join(COUNTED)}")
        for name in ("ranks", "gigabytes"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise SettingsError(f"--{name}: wants whole numbers of 1 or more, separated by commas")


@dataclass(frozen=True, kw_only=True, slots=True)
class FullSizeSettings:
    """What `vinf bench full-size` is asked to make."""

    model: str = FULL_SIZE[0]
    frames: int = 96
    steps: int = 0
    """0: the model's default."""
    ranks: int = 1
    dtype: str = "bfloat16"
    device: str = "cuda"
    seed: int = 1
    stock: bool = True
    """Whether stock diffusers makes one clip of the trained length beside it."""

    def __post_init__(self) -> None:
        if self.model not in (*FULL_SIZE, TOY):
            raise SettingsError(f"--model: {self.model!r} is not one of {', '.join((*FULL_SIZE, TOY))}")
        for name in ("frames", "ranks"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name}: {getattr(self, name)} is less than 1")
        if self.steps < 0:
            raise SettingsError(f"--steps: {self.steps} is less than 0")
        if self.device not in ("cpu", "cuda"):
            raise SettingsError(f"--device: {self.device!r} is not one of cpu, cuda")


QUALITY_MODES = ("rendered", "independent", "freenoise", "local", "global", "dual", "key-frames", "unsynchronised")
"""What `vinf bench quality` compares; see `benchmarks.quality.modes`."""

QUALITY_SHORTEST = 32
"""Frames; shorter videos have hardly more than one clip."""

QUALITY_PROMPTS = 32
"""Prompts of the full comparison."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QualitySettings:
    """What `vinf bench quality` is asked to compare."""

    folder: str
    """Where videos and figures are kept; the work goes on from what is there."""
    modes: tuple[str, ...] = QUALITY_MODES
    frames: tuple[int, ...] = (64, 192, 384)
    """Lengths of the videos."""
    prompts: int = QUALITY_PROMPTS
    steps: int = 25
    """Denoising steps."""
    time_limit: float = 0.0
    """Seconds after which no further video is begun; 0: none."""
    report_only: bool = False
    sheet: str = ""
    """Picture to draw of one prompt in every mode; empty: none."""

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in QUALITY_MODES]
        if unknown or not self.modes:
            raise SettingsError(f"--modes: {', '.join(unknown) or 'none'}: allowed: {', '.join(QUALITY_MODES)}")
        if not self.frames or min(self.frames) < QUALITY_SHORTEST:
            raise SettingsError(f"--frames: wants whole numbers of {QUALITY_SHORTEST} or more, separated by commas")
        if not 1 <= self.prompts <= QUALITY_PROMPTS:
            raise SettingsError(f"--prompts: {self.prompts} is not in [1, {QUALITY_PROMPTS}]")
        if self.steps < 1:
            raise SettingsError(f"--steps: {self.steps} is less than 1")
        if not self.time_limit >= 0:
            raise SettingsError(f"--time-limit: {self.time_limit:g} is less than 0")
        if self.sheet and not self.sheet.endswith((".png", ".webp")):
            raise SettingsError(f"--sheet: {self.sheet!r} is not a name that ends in .png or .webp")


AnySettings = (
    Settings
    | DeliverySettings
    | ClientsSettings
    | MetricsSettings
    | CapacitySettings
    | FullSizeSettings
    | QualitySettings
)
