"""Loads the components of a model from checked files; nothing that a folder holds is ever executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTokenizer, LlamaModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from vinf_core.errors import ModelFilesError
from vinf_core.models.files import check_files, check_weights, read_config

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"

LLAMA_CLASSES = ("LlamaModel", "LlamaForCausalLM")

_SHOWN_KEYS = 3

_HARMLESS = ("position_ids",)
"""Buffers that older versions saved and newer ones compute."""


def quiet_libraries() -> None:
    """Keep bars and advice of the libraries out of a log: whatever is wrong with a file is an error of its own here."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


def load_component(
    kind: Any, folder: Path, *, class_names: tuple[str, ...] = (), dtype: torch.dtype | None = None
) -> Any:
    """Load a diffusers model, every weight of it.

    Args:
        kind: the class.
        folder: with ``config.json`` and safetensors.
        class_names: what the configuration may call it besides the class's own name.
        dtype: what its weights are converted to while they are read, so that a large model is never there in another
            precision; None: float32.

    Raises:
        ModelFilesError: a file is missing, damaged, of another class, or does not fit the configuration.
    """
    read_config(folder, (kind.__name__, *class_names))
    return _load(kind, folder, variant=check_weights(folder, DIFFUSERS_STEM), torch_dtype=dtype)


def load_text_encoder(folder: Path) -> Any:
    """Load a CLIP text encoder; raises as `load_component`."""
    return _load(CLIPTextModel, folder, variant=check_text_encoder(folder))


def check_text_encoder(folder: Path, class_names: tuple[str, ...] = ("CLIPTextModel", "CLIPModel")) -> str | None:
    """See that a text encoder's files are there and whole, and load nothing; raises and returns as `check_weights`."""
    read_config(folder, class_names)
    return check_weights(folder, TRANSFORMERS_STEM)


def load_llama(folder: Path, dtype: torch.dtype) -> Any:
    """Load a Llama as a text encoder, its weights converted while they are read; raises as `load_component`."""
    return _load(LlamaModel, folder, variant=check_text_encoder(folder, LLAMA_CLASSES), dtype=dtype)


def load_language_model(kind: Any, folder: Path, class_names: tuple[str, ...], dtype: torch.dtype) -> Any:
    """Load a model of transformers as a text encoder, converted while it is read; raises as `load_component`."""
    return _load(kind, folder, variant=check_text_encoder(folder, class_names), dtype=dtype)


def load_tokenizer(folder: Path) -> Any:
    """Load a CLIP tokenizer; raises as `load_component`."""
    check_files(folder, ("vocab.json", "merges.txt"), ("tokenizer.json",))
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelFilesError(f"model: {folder} holds no tokenizer that can be read: {error}") from error


def load_llama_tokenizer(folder: Path) -> Any:
    """Load a Llama's tokenizer; raises as `load_component`.

    As it stands in ``tokenizer.json``: transformers' own class for Llamas would put the first Llama's way of cutting
    words in place of what the file says. Padding comes last, which the transformer's mask depends on.
    """
    check_files(folder, ("tokenizer.json", "tokenizer_config.json"))
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, padding_side="right")
    except Exception as error:  # the reader of tokenizer.json raises nothing narrower
        raise ModelFilesError(f"model: {folder} holds no tokenizer that can be read: {error}") from error


def load_scheduler_config(folder: Path, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Read the noise schedule a model was trained with; raises as `load_component`."""
    return read_config(folder, class_names, name="scheduler_config.json")


def _load(kind: Any, folder: Path, *, variant: str | None, **dtype: torch.dtype | None) -> Any:
    try:
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, variant=variant, output_loading_info=True, **dtype
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
