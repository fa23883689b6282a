"""Values of flags: what they may look like, and what is said of those that do not."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal
from urllib.parse import urlsplit

MIN_RANK_WEIGHT, MAX_RANK_WEIGHT = 0.001, 1000.0
"""Farther apart than any two devices that are worth putting into one group."""

MAX_CONTEXT_RANKS = 64
"""No model has more attention heads that divide evenly; catches a typing mistake."""

_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?) *([A-Za-z]{0,3})")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
"""Bytes in one, by its name in lower case."""

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class ConfigError(ValueError):
    """A flag has a value that cannot work; the message names the flag, the value and what is allowed."""

    def __init__(self, flag: str, problem: str) -> None:
        super().__init__(f"{flag}: {problem}")


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, flag: str) -> Address:
        """Read ``host:port`` or ``[ipv6]:port``."""
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):(\d{1,5})", text)
        if match is None:
            raise ConfigError(flag, f"{text!r} is not HOST:PORT")
        port = int(match[3])
        if port > 65535:
            raise ConfigError(flag, f"port {port} is not in [0, 65535]")
        return cls(match[1] or match[2], port)

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def with_port(self, port: int) -> Address:
        """The same host with the port that was really bound."""
        return Address(self.host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RankWeights:
    """What the ranks' clips are proportional to."""

    source: Literal["auto", "measured", "even", "given"] = "auto"
    """The ranks' own speeds in earlier generations, nothing (all clips are alike), or `given`; auto is even where all
    devices have the same name, so that the group repeats a video bit for bit, and measured otherwise."""

    given: tuple[float, ...] = ()
    """One number a rank."""

    @classmethod
    def parse(cls, text: str, *, flag: str) -> RankWeights:
        """Read ``auto``, ``measured``, ``even``, or numbers with commas between."""
        if text == "auto":
            return cls("auto")
        if text == "measured":
            return cls("measured")
        if text == "even":
            return cls("even")
        try:
            given = tuple(float(word) for word in text.split(","))
        except ValueError:
            raise ConfigError(flag, f"{text!r} is not auto, measured, even, or numbers with commas between") from None
        for weight in given:
            if not MIN_RANK_WEIGHT <= weight <= MAX_RANK_WEIGHT:  # false for NaN, too
                raise ConfigError(flag, f"{weight:g} is not in [{MIN_RANK_WEIGHT:g}, {MAX_RANK_WEIGHT:g}]")
        return cls("given", given)

    def __str__(self) -> str:
        return ",".join(map(str, self.given)) if self.source == "given" else self.source


@dataclass(frozen=True, slots=True)
class RankMesh:
    """How many ranks work on one clip, and how they divide it; the clips take what is left."""

    cfg: int = 1
    """Ranks that divide the two halves of the guidance."""

    context: int = 1
    """Ranks that divide the tokens of a clip."""

    def __post_init__(self) -> None:
        if self.cfg not in (1, 2):
            raise ConfigError("--cfg-ranks", f"{self.cfg} is not one of 1, 2")
        if not 1 <= self.context <= MAX_CONTEXT_RANKS:
            raise ConfigError("--context-ranks", f"{self.context} is not in [1, {MAX_CONTEXT_RANKS}]")

    def check(self, ranks: int) -> None:
        """Raise `ConfigError` for a number of ranks that cannot be shared out evenly."""
        size = self.cfg * self.context
        if ranks % size:
            raise ConfigError(
                "--ranks",
                f"{ranks} is not a multiple of {size}, which is --cfg-ranks ({self.cfg}) times --context-ranks "
                f"({self.context})",
            )

    def layout(self, ranks: int) -> str:
        """Say how ranks are laid out, in words."""
        return f"{ranks // (self.cfg * self.context)} clips x {self.cfg} cfg x {self.context} context"

    def describe(self, ranks: int) -> str:
        """The same; empty where each rank has a clip of its own."""
        return self.layout(ranks) if self.cfg * self.context > 1 else ""


def parse_size(text: str, *, flag: str) -> int | None:
    """Read ``8GiB``, ``500MB``, ``8589934592`` (bytes); None for ``auto``."""
    if text == "auto":
        return None
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigError(flag, f"{text!r} is not auto or a size such as 8GiB, 500MB or 8589934592")
    return int(Fraction(match[1]) * unit)


def parse_duration(text: str, *, flag: str) -> float | None:
    """Read ``7d``, ``12h``, ``30m``, ``90s``, as seconds; None for ``forever``."""
    if text == "forever":
        return None
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigError(flag, f"{text!r} is not forever or a time such as 7d, 12h, 30m or 90s")
    return float(match[1]) * _SECONDS[match[2]]


def check_url(text: str, *, flag: str) -> None:
    """Raise `ConfigError` for what is no http(s)://HOST[:PORT]."""
    try:
        url = urlsplit(text)
        is_good = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:  # a port that is none
        is_good = False
    if not is_good:
        raise ConfigError(flag, f"{text!r} is not http://HOST:PORT or https://HOST:PORT")
