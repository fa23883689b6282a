"""What a benchmark is asked to measure; checked once, and sent to every rank as it is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

EMBEDDED = ("sprites",)
"""Models that come with their weights."""

RANDOM = ("mid", "videocrafter2")
"""Architectures that are built with random weights: cost and memory do not depend on their values."""

FULL_SIZE = ("videocrafter2", "zeroscope-v2", "modelscope")
COUNTED = (*FULL_SIZE, "animatediff-v2")
FULL_SIZE_3D = ("skyreels-v1-t2v", "skyreels-v1-i2v", "easyanimate-v5.1-7b", "easyanimate-v5.1-12b")
"""Published models at full size, whose parts are known here without their weights."""

TOYS_3D = ("toy-skyreels", "toy-easyanimate")
"""The same for models with 3-D attention."""

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
            if name not in COUNTED + FULL_SIZE_3D:
                raise SettingsError(f"--models: {name!r} is not one of {', '.join(COUNTED + FULL_SIZE_3D)}")
        for name in ("ranks", "gigabytes"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise SettingsError(f"--{name}: wants whole numbers of 1 or more, separated by commas")


@dataclass(frozen=True, kw_only=True, slots=True)
class FullSizeSettings:
    """What `vinf bench full-size` is asked to make."""

    model: str = FULL_SIZE[0]
    frames: int = 0
    """0: 96, or with 3-D attention the length that the model was trained on."""
    steps: int = 0
    """0: the model's default."""
    ranks: int = 1
    weights: str = "stored"
    """With 3-D attention: ``fp8`` keeps those of the blocks' linear layers in 8 bits."""
    offload: str = "none"
    """With 3-D attention: ``blocks`` keeps them on the host until they are needed."""
    dtype: str = "bfloat16"
    device: str = "cuda"
    seed: int = 1
    stock: bool = True
    """Whether stock diffusers makes one clip of the trained length beside it."""

    def __post_init__(self) -> None:
        known = (*FULL_SIZE, *FULL_SIZE_3D, TOY, *TOYS_3D)
        if self.model not in known:
            raise SettingsError(f"--model: {self.model!r} is not one of {', '.join(known)}")
        if self.frames < 0:
            raise SettingsError(f"--frames: {self.frames} is less than 0")
        if self.ranks < 1:
            raise SettingsError(f"--ranks: {self.ranks} is less than 1")
        for name, allowed in (("weights", ("stored", "fp8")), ("offload", ("none", "blocks"))):
            value = getattr(self, name)
            if value not in allowed:
                raise SettingsError(f"--{name}: {value!r} is not one of {', '.join(allowed)}")
            if value != allowed[0] and not self.is_joint:
                raise SettingsError(f"--{name}: {value} is for models with 3-D attention, which {self.model} is not")
        if self.is_joint and (self.ranks > 1 or self.steps):
            raise SettingsError("--ranks, --steps: of a model with 3-D attention one step on one rank is measured")
        if self.steps < 0:
            raise SettingsError(f"--steps: {self.steps} is less than 0")
        if self.device not in ("cpu", "cuda"):
            raise SettingsError(f"--device: {self.device!r} is not one of cpu, cuda")

    @property
    def is_joint(self) -> bool:
        """Whether one attention of the model does space, time and text."""
        return self.model in FULL_SIZE_3D + TOYS_3D


DATA_PATH_FEATURES = ("streaming", "buffers", "conversion", "overlap", "sending", "prompts", "images")
"""What `vinf bench memory` switches; see `benchmarks.serving.data_path`."""

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


@dataclass(frozen=True, kw_only=True, slots=True)
class MemorySettings:
    """What `vinf bench memory` is asked to measure."""

    features: tuple[str, ...] = DATA_PATH_FEATURES
    frames: int = 49
    size: str = "1024x1024"
    """Pixels, width and height."""
    dtype: str = "bfloat16"
    device: str = "auto"
    threads: int = 2
    """On a CPU."""
    repeats: int = 3

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in DATA_PATH_FEATURES]
        if unknown:
            raise SettingsError(f"--features: {unknown[0]!r} is not one of {', '.join(DATA_PATH_FEATURES)}")
        if self.frames < 1 or self.frames % 4 != 1:
            raise SettingsError(f"--frames: {self.frames} is not a multiple of 4, plus 1")
        sides = _SIZE.fullmatch(self.size)
        if sides is None or any(not 16 <= int(side) <= 8192 or int(side) % 8 for side in sides.groups()):
            raise SettingsError(f"--size: {self.size!r} is not WIDTHxHEIGHT, multiples of 8 in [16, 8192]")
        for name in ("threads", "repeats"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name}: {getattr(self, name)} is less than 1")
        for name, allowed in (("dtype", DTYPES), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise SettingsError(f"--{name}: {getattr(self, name)!r} is not one of {', '.join(allowed)}")

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height, pixels."""
        width, height = self.size.split("x")
        return int(width), int(height)


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
    | MemorySettings
    | QualitySettings
)
