"""Where a model's files are: in its package, in a folder, or in the hub's cache. Imports no torch."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vinf_core.errors import ModelNotFoundError
from vinf_core.models.catalogue import ModelCard, catalogue

ASSETS = Path(__file__).parents[1] / "assets"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = (
    *("*.json", "*.txt"),
    *("diffusion_pytorch_model*.safetensors", "*/diffusion_pytorch_model*.safetensors", "*/model*.safetensors"),
)
"""Nothing that could hold code, and no second copy of the weights in another format."""
_UNWANTED = ("*.fp16.safetensors",)
_DENOISER = "unet/*"
"""What a folder that others take the rest from holds for itself."""


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
        root = _from_hub(source.model, source, revision=source.revision)
        return _with_base(_recognise(root, list(cards.values())), root, source)
    raise ModelNotFoundError(
        f"model: {source.model!r} is not one of {', '.join(sorted(cards))}, nor a folder, nor OWNER/NAME on the hub"
    )


def _is_path(text: str) -> bool:
    return text.startswith((".", "~", os.sep)) or Path(text).is_dir()


def _published(card: ModelCard, source: ModelSource) -> Path:
    """The folder of a model of the catalogue in the hub's cache."""
    revision = source.revision or card.revision
    return _from_hub(card.hub_id, source, revision=revision, base_hub_id=card.base_hub_id)


def _with_base(card: ModelCard, root: Path, source: ModelSource) -> ModelFiles:
    """Add where the other parts are: asked for, in the same folder, or published elsewhere."""
    if source.base:
        base = _asked_base(source)
    elif (root / "vae").is_dir() or not card.base_hub_id:
        base = root
    else:
        base = _from_hub(card.base_hub_id, source, leave=_DENOISER)
    return ModelFiles(card=card, denoiser=_denoiser_folder(root, card), base=base)


def _asked_base(source: ModelSource) -> Path:
    if _is_path(source.base):
        base = Path(source.base).expanduser()
        if not base.is_dir():
            raise ModelNotFoundError(f"base: {base} is not a folder")
        return base
    if not _HUB_ID.fullmatch(source.base):
        raise ModelNotFoundError(f"base: {source.base!r} is neither a folder nor OWNER/NAME on the hub")
    return _from_hub(source.base, source, leave=_DENOISER, field="base")


def _denoiser_folder(root: Path, card: ModelCard) -> Path:
    """The folder of the denoiser: a subfolder of a whole pipeline, or the folder itself."""
    inside = root / card.denoiser
    return inside if inside.is_dir() else root


def _recognise(root: Path, cards: list[ModelCard]) -> ModelCard:
    """Tell from its configuration which model a folder holds; its ``vinf.json`` may say it: ``{"model": NAME}``."""
    named = root / "vinf.json"
    if named.is_file():
        wanted = str(_read_json(named).get("model", ""))
        for card in cards:
            if card.name == wanted:
                return card
        raise ModelNotFoundError(
            f"model: {named} names {wanted!r}, not one of {', '.join(card.name for card in cards)}"
        )
    looked_at = []
    for card in cards:
        config = _denoiser_folder(root, card) / "config.json"
        if config.is_file():
            if card.fits(_read_json(config)):
                return card
            looked_at.append(str(config))
    names = ", ".join(card.name for card in cards)
    why = f"{', '.join(dict.fromkeys(looked_at))} fits none of {names}" if looked_at else "no config.json"
    raise ModelNotFoundError(
        f'model: {root} holds no model that is known: {why}. Say which it is in its vinf.json: {{"model": NAME}}'
    )


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"model: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelNotFoundError(f"model: {path} holds no JSON object")
    return content


def _from_hub(
    hub_id: str,
    source: ModelSource,
    *,
    revision: str = "",
    leave: str = "",
    base_hub_id: str = "",
    field: str = "model",
) -> Path:
    """The folder of something published, in the hub's cache.

    Args:
        hub_id: OWNER/NAME.
        source: what was asked for.
        revision: branch, tag or commit; empty: the main branch.
        leave: pattern of files that are not needed.
        base_hub_id: what else is needed with it; empty: nothing.
        field: of the source, which an error names.
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
    commands = [f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")]
    commands[0] += f" --exclude '{leave}'" if leave else ""
    if base_hub_id and not source.base:
        commands.append(f"hf download {base_hub_id} --exclude '{_DENOISER}'")
    raise ModelNotFoundError(
        f"{field}: the files of {hub_id} are not on this machine ({why}). Where there is a network: "
        f"{' && '.join(commands)}; they go to the hub's cache (HF_HOME), which can be copied here. Or give a folder "
        f"that holds them: {'--model-base' if leave else '--model'} FOLDER"
    ) from cause
