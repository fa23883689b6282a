"""Where a model's files are: in its package, in a folder, or in the hub's cache. Imports no torch."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vinf_core.errors import ModelFilesError, ModelNotFoundError
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.catalogue import ModelCard, catalogue

ASSETS = Path(__file__).parents[1] / "assets"

FACTS = "vinf.json"
"""What a folder may say of itself: see `_recognise`."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = (
    *("*.json", "*.txt"),
    *("diffusion_pytorch_model*.safetensors", "*/diffusion_pytorch_model*.safetensors", "*/model*.safetensors"),
)
"""Nothing that could hold code, and no second copy of the weights in another format."""
_UNWANTED = ("*.fp16.safetensors", "*.non_ema.safetensors", "safety_checker/*")
_NATIVE = ("width", "height", "frame_count")
"""Fields of a `ModelCard` that a folder may set for itself."""
_WHOLE = "--include '*/*.json' --include '*/*.txt' --include '*/*model.safetensors'"
"""The same for a download by hand of a pipeline with all its parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """What a user asked for."""

    model: str
    """A name of the catalogue, a folder, or OWNER/NAME on the hub."""
    base: str = ""
    """A folder or OWNER/NAME for the parts that the model's own files lack; empty: as the catalogue says."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty: the main branch."""
    offline: bool = False
    """Whether only what is on this machine counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """A model and the folders that hold it."""

    card: ModelCard
    denoiser: Path
    """With ``config.json`` and the weights of the denoiser."""
    base: Path
    """With subfolders for everything else."""


def locate(source: ModelSource) -> ModelFiles:
    """Find a model's files; downloads them from the hub where that is allowed and they are not here.

    Raises:
        ModelNotFoundError: there is no such model, or its files are not here; the message says what to do.
    """
    cards = catalogue()
    card = cards.get(source.model)
    if card is not None and card.folder:
        root = ASSETS / card.folder
        return ModelFiles(card=card, denoiser=root / card.denoiser, base=root)
    if card is not None:
        return _with_base(card, _published(card, source), source)
    if _is_path(source.model):
        root = Path(source.model).expanduser()
        if not root.is_dir():
            raise ModelNotFoundError(f"model: {root} is not a folder")
        return _with_base(_recognise(root, list(cards.values())), root, source)
    if _HUB_ID.fullmatch(source.model):
        published = next((known for known in cards.values() if known.hub_id == source.model), None)
        if published is not None:
            return _with_base(published, _published(published, source), source)
        commands = [_download(source.model, revision=source.revision)]
        root = _from_hub(source.model, source, commands, revision=source.revision)
        return _with_base(_recognise(root, list(cards.values())), root, source)
    raise ModelNotFoundError(
        f"model: {source.model!r} is not one of {', '.join(sorted(cards))}, nor a folder, nor OWNER/NAME on the hub"
    )


def _is_path(text: str) -> bool:
    return text.startswith((".", "~", os.sep)) or Path(text).is_dir()


def _published(card: ModelCard, source: ModelSource) -> Path:
    """The folder of a model of the catalogue in the hub's cache."""
    revision = source.revision or card.revision
    commands = [_download(card.hub_id, revision=revision)]
    if card.base_hub_id and not source.base:
        commands.append(_base_download(card))
    return _from_hub(card.hub_id, source, commands, revision=revision)


def _with_base(card: ModelCard, root: Path, source: ModelSource) -> ModelFiles:
    """Add where the other parts are: asked for, in the same folder, or published elsewhere."""
    leave = "" if card.extends_base else _own_denoiser(card)
    if source.base:
        base = _asked_base(source, leave)
    elif (root / "vae").is_dir() or not card.base_hub_id:
        base = root
    else:
        base = _from_hub(card.base_hub_id, source, [_base_download(card)], leave=leave, flag="--model-base")
    return ModelFiles(card=card, denoiser=_denoiser_folder(root, card), base=base)


def _asked_base(source: ModelSource, leave: str) -> Path:
    if _is_path(source.base):
        base = Path(source.base).expanduser()
        if not base.is_dir():
            raise ModelNotFoundError(f"base: {base} is not a folder")
        return base
    if not _HUB_ID.fullmatch(source.base):
        raise ModelNotFoundError(f"base: {source.base!r} is neither a folder nor OWNER/NAME on the hub")
    commands = [_download(source.base, leave=leave)]
    return _from_hub(source.base, source, commands, leave=leave, field="base", flag="--model-base")


def _denoiser_folder(root: Path, card: ModelCard) -> Path:
    """The folder of the denoiser: a subfolder of a whole pipeline, or the folder itself."""
    inside = root / card.denoiser
    return inside if inside.is_dir() else root


def _recognise(root: Path, cards: list[ModelCard]) -> ModelCard:
    """Tell from its configuration which model a folder holds; its ``vinf.json`` may say it: ``{"model": NAME}``.

    That file may also say in what size and length the model was trained, where it was trained further (`_NATIVE`).
    """
    named = root / FACTS
    if named.is_file():
        content = _read_json(named)
        wanted = str(content.get("model", ""))
        for card in cards:
            if card.name == wanted:
                return replace(card, **_native(named, content))
        raise ModelNotFoundError(
            f"model: {named} names {wanted!r}, not one of {', '.join(card.name for card in cards)}"
        )
    looked_at = []
    for card in cards:
        config = _denoiser_folder(root, card) / "config.json"
        if config.is_file():
            content = _read_json(config)
            if card.fits(content):
                return card
            looked_at.append(f"{config} ({content.get('_class_name')})")
    names = ", ".join(card.name for card in cards)
    why = "no config.json (a LoRA alone is no model)"
    if looked_at:
        why = f"{', '.join(dict.fromkeys(looked_at))} fits none of {names}"
    raise ModelNotFoundError(
        f'model: {root} holds no model that is known: {why}. Say which it is in its vinf.json: {{"model": NAME}}'
    )


def _native(path: Path, content: dict[str, object]) -> dict[str, Any]:
    """What a folder says of the size and length its model was trained in."""
    said = {name: content[name] for name in _NATIVE if name in content}
    for name, value in said.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelNotFoundError(f"model: {path} says {name}: {value!r}, which is not a number, 1 or more")
    return said


def check_frame_count(files: ModelFiles, frames_per_latent: int) -> None:
    """See that the length a folder says its model was trained in is one that a video can have.

    Raises:
        ModelFilesError: it is not.
    """
    count, grid = files.card.frame_count, FrameGrid(frames_per_latent)
    if not grid.fits(count):
        path = next((path for path in (files.denoiser / FACTS, files.denoiser.parent / FACTS) if path.is_file()), None)
        near = " or ".join(map(str, grid.nearest(count)))
        raise ModelFilesError(
            f"model: {path or files.denoiser} says frame_count: {count}, which is not a multiple of "
            f"{frames_per_latent}, plus 1; nearest are {near}"
        )


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"model: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelNotFoundError(f"model: {path} holds no JSON object")
    return content


def _download(hub_id: str, *, revision: str = "", leave: str = "") -> str:
    """The command that brings something published to the hub's cache."""
    return f"hf download {hub_id}" + (f" --revision {revision}" if revision else "") + _without(leave)


def _base_download(card: ModelCard) -> str:
    """The same for what a model of the catalogue lacks."""
    return f"hf download {card.base_hub_id}" + (f" {_WHOLE}" if card.extends_base else _without(_own_denoiser(card)))


def _own_denoiser(card: ModelCard) -> str:
    """What a folder that others take the rest from holds for itself."""
    return f"{card.denoiser}/*"


def _without(pattern: str) -> str:
    return f" --exclude '{pattern}'" if pattern else ""


def _from_hub(
    hub_id: str,
    source: ModelSource,
    commands: list[str],
    *,
    revision: str = "",
    leave: str = "",
    field: str = "model",
    flag: str = "--model",
) -> Path:
    """The folder of something published, in the hub's cache.

    Args:
        hub_id: OWNER/NAME.
        source: what was asked for.
        commands: which download it by hand, and what else is needed with it.
        revision: branch, tag or commit; empty: the main branch.
        leave: pattern of files that are not needed; empty: none.
        field: of the source, which an error names.
        flag: takes a folder in its place.
    """
    # Late: it takes a third of a second.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                hub_id,
                revision=revision or None,
                local_files_only=source.offline,
                allow_patterns=list(_WANTED),
                ignore_patterns=[*_UNWANTED, leave] if leave else list(_UNWANTED),
            )
        )
    except LocalEntryNotFoundError as error:
        cause: Exception = error
        why = "offline, and not in the hub's cache" if source.offline else "the hub cannot be reached"
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        cause, why = error, str(error).partition("\n")[0]
    raise ModelNotFoundError(
        f"{field}: the files of {hub_id} are not on this machine ({why}). Where there is a network: "
        f"{' && '.join(commands)}; they go to the hub's cache (HF_HOME), which can be copied here. Or give a folder "
        f"that holds them: {flag} FOLDER"
    ) from cause
