"""How many CUDA devices the ranks will see, counted without torch."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path


def count_visible_gpus(environ: Mapping[str, str]) -> int:
    """Count them as CUDA does: what the driver has, narrowed by CUDA_VISIBLE_DEVICES."""
    present = _count_present_gpus()
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    return present if visible is None else _narrow(visible, present)


def _narrow(visible: str, present: int) -> int:
    """Entries up to the first one that names no device: CUDA ignores the rest."""
    if present == 0:
        return 0
    count = 0
    for entry in visible.split(","):
        name = entry.strip()
        is_device = int(name) < present if name.isdecimal() else name.startswith(("GPU-", "MIG-"))
        if not is_device:
            break
        count += 1
    return count


def _count_present_gpus() -> int:
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        # A container may have the devices without the tool.
        return sum(1 for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    return sum(1 for line in listing.stdout.splitlines() if line.startswith("GPU "))
