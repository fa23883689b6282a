"""Loads the components of a model from checked files; nothing that a folder holds is ever executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CLIPTextModel, CLIPTokenizer

from vinf_core.errors import ModelFilesError
from vinf_core.models.files import check_files, check_weights, read_config

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"

_SHOWN_KEYS = 3

_HARMLESS = ("position_ids",)
"""Buffers that older versions saved and newer ones compute."""


def load_component(kind: Any, folder: Path, *, class_names: tuple[str, ...] = ()) -> Any:
    """Load a diffusers model, every weight of it.

    Args:
        kind: the class.
        folder: with ``config.json`` and safetensors.
        class_names: what the configuration may call it besides the class's own name.

    Raises:
        ModelFilesError: a file is missing, damaged, of another class, or does not fit the configuration.
    """
    read_config(folder, (kind.__name__, *class_names))
    return _load(kind, folder, variant=check_weights(folder, DIFFUSERS_STEM))


def load_text_encoder(folder: Path) -> Any:
    """Load a CLIP text encoder; raises as `load_component`."""
    read_config(folder, ("CLIPTextModel", "CLIPModel"))
    return _load(CLIPTextModel, folder, variant=check_weights(folder, TRANSFORMERS_STEM))


def load_tokenizer(folder: Path) -> Any:
    """Load a CLIP tokenizer; raises as `load_component`."""
    check_files(folder, ("vocab.json", "merges.txt"), ("tokenizer.json",))
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelFilesError(f"model: {folder} holds no tokenizer that can be read: {error}") from error


def load_scheduler_config(folder: Path, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Read the noise schedule a model was trained with; raises as `load_component`."""
    return read_config(folder, class_names, name="scheduler_config.json")


def _load(kind: Any, folder: Path, *, variant: str | None) -> Any:
    try:
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, variant=variant, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelFilesError(f"model: {folder} cannot be loaded as {kind.__name__}: {error}") from error
    for name, keys in info.items():
        wrong = [str(key) for key in keys if not str(key).endswith(_HARMLESS)]
        if wrong:
            shown = ", ".join(sorted(wrong)[:_SHOWN_KEYS]) + (", …" if len(wrong) > _SHOWN_KEYS else "")
            raise ModelFilesError(
                f"model: {folder} does not fit {kind.__name__}: {len(wrong)} {name.replace('_', ' ')}: {shown}"
            )
    return model
