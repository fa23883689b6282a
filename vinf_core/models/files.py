"""Looks at a model's files before anything reads them: a mistake gets one sentence, and no file that could hold code is
opened. Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vinf_core.errors import ModelFilesError

CONFIG = "config.json"

_MAX_HEADER_BYTES = 100 << 20
"""The format's own limit."""

_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def read_config(folder: Path, class_names: tuple[str, ...], *, name: str = CONFIG) -> dict[str, Any]:
    """Read a component's configuration.

    Args:
        folder: of the component.
        class_names: what its ``_class_name`` (or one of ``architectures``) may be.
        name: of the file.

    Raises:
        ModelFilesError: the folder or the file is missing, is no JSON object, or is of another class.
    """
    path = folder / name
    if not folder.is_dir():
        raise ModelFilesError(f"model: the folder {folder} is missing")
    if not path.is_file():
        raise ModelFilesError(f"model: {path} is missing")
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"model: {path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelFilesError(f"model: {path} holds no JSON object")
    said = [config["_class_name"]] if "_class_name" in config else list(config.get("architectures") or ())
    if not set(said) & set(class_names):
        raise ModelFilesError(
            f"model: {path} is of class {', '.join(map(str, said)) or 'unknown'}, wanted {' or '.join(class_names)}"
        )
    return config


def check_weights(folder: Path, stem: str) -> str | None:
    """See that a component's weights are whole safetensors files.

    Args:
        folder: of the component.
        stem: ``diffusion_pytorch_model`` for diffusers' classes, ``model`` for those of transformers.

    Returns:
        The variant to load: None, or ``fp16`` where only half precision is there.

    Raises:
        ModelFilesError: they are missing, cut short, damaged, or in a format that may execute code.
    """
    for variant in (None, "fp16"):
        files = _weight_files(folder, stem, variant)
        for file in files:
            _check_file(file)
        if files:
            return variant
    raise ModelFilesError(_missing(folder, folder / f"{stem}.safetensors"))


def _weight_files(folder: Path, stem: str, variant: str | None) -> list[Path]:
    """One file, those of an index, or none."""
    infix = f".{variant}" if variant else ""
    whole = folder / f"{stem}{infix}.safetensors"
    if whole.is_file():
        return [whole]
    index = folder / f"{stem}.safetensors.index{infix}.json"
    if not index.is_file():
        return []
    try:
        names = {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelFilesError(f"model: {index} cannot be read: {error!r}") from error
    return [folder / Path(name).name for name in sorted(names)]


def check_files(folder: Path, *groups: tuple[str, ...]) -> None:
    """See that a folder holds all files of one group at least.

    Raises:
        ModelFilesError: it does not; the message names the first group's.
    """
    if not any(all((folder / name).is_file() for name in group) for group in groups):
        missing = [name for name in groups[0] if not (folder / name).is_file()]
        raise ModelFilesError(f"model: {folder / missing[0]} is missing")


def _missing(folder: Path, wanted: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"model: {folder} holds its weights as {pickles[0]}, a pickle, which may execute code and is never opened; "
            f"wanted {wanted.name}: load it once with diffusers or transformers where you trust it, and save it with "
            "save_pretrained(folder, safe_serialization=True)"
        )
    return f"model: {wanted} is missing"


def _check_file(path: Path) -> None:
    """Compare a safetensors header with the size of its file (huggingface/safetensors, README, "Format")."""
    if not path.is_file():
        raise ModelFilesError(f"model: {path} is missing")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise ModelFilesError(f"model: {path} is no safetensors file, or is cut short: {size} bytes")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ModelFilesError(f"model: {path} is damaged: its header cannot be read") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        kind = "cut short" if size < expected else "too long"
        raise ModelFilesError(f"model: {path} is {kind}: {size} bytes, its header says {expected}")
