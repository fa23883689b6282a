"""Whether files are still the ones that were read."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

Stamp: TypeAlias = tuple[tuple[int, ...], ...]


def stamp(*paths: Path) -> Stamp:
    """Return what changes with the files, also where a link is pointed elsewhere; raises OSError when one is gone."""
    found = [path.stat() for path in paths]
    return tuple((status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode) for status in found)
