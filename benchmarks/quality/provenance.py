"""What videos were made from and how they were measured, as digests: what a folder keeps is used only where it fits.

The engine's own code is not among it: whoever changes what it makes takes another folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import vinf_client.evaluation
from benchmarks.quality import scores
from benchmarks.settings import QUALITY_PROMPTS, SettingsError
from training.sprites import tracker
from training.sprites.world import held_out_prompts
from vinf_core.models.locate import ModelSource, locate

MODEL = ModelSource(model="sprites")

ORIGIN = "origin.txt"
"""The file of a folder that says what its videos were made from."""


def check_origin(folder: Path) -> None:
    """Hold a folder to one model and one list of prompts; one that does not say yet takes those of today.

    Raises:
        SettingsError: its videos were made from others.
    """
    files = locate(MODEL)
    prompts = [(prompt.text, prompt.seed) for prompt in held_out_prompts(QUALITY_PROMPTS)]
    origin = f"{digest([files.denoiser, files.base], '.safetensors')} {_digest_of(repr(prompts).encode())}\n"
    path = folder / ORIGIN
    if not path.exists():
        path.write_text(origin)
    elif path.read_text() != origin:
        raise SettingsError(f"--folder: the videos in {folder} were made with other weights or prompts; take another")


def digest(places: Iterable[Path], ending: str) -> str:
    """What is in files, and in those below folders whose names end so; wherever they are."""
    paths = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob(f"*{ending}")))]
    return _digest_of(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths))


def _digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


MEASURES = digest(map(Path, (*vinf_client.evaluation.__path__, tracker.__file__, scores.__file__)), ".py")
"""Changes with the code of the measures; that which was loaded, whatever becomes of the files."""
