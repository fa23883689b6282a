"""Values of options: spans of time and labels."""

import argparse
import math
import re

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float:
    """Read 90, 90s, 15m, 2h or 1d as seconds.

    Raises:
        argparse.ArgumentTypeError: it is none of these, or 0.
    """
    match = _SPAN.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: a time such as 90s, 15m, 2h or 1d")
    return seconds


def label(text: str) -> tuple[str, str]:
    """Read KEY=VALUE.

    Raises:
        argparse.ArgumentTypeError: there is no = or nothing before it.
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: KEY=VALUE")
    return key, value
