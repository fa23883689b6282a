"""Folders that carry the id of a generation."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Collection
from pathlib import Path

_log = logging.getLogger(__name__)

GENERATION_ID = re.compile(r"[0-9a-f]{12}-[0-9a-f]{20}")


def remove_folder(folder: Path) -> None:
    """Remove a folder and what is in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_other_folders(root: Path, known: Collection[str]) -> None:
    """Remove every generation's folder of `root` that is not known; nothing that is named otherwise is touched."""
    for folder in root.iterdir() if root.is_dir() else ():
        if GENERATION_ID.fullmatch(folder.name) and folder.name not in known:
            _log.info("%s belongs to no generation and is removed", folder)
            remove_folder(folder)
