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

DENOISER_SUBFOLDER = "unet"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = (
    *("*.json", "*.txt"),
    *("diffusion_pytorch_model*.safetensors", "*/diffusion_pytorch_model*.safetensors", "*/model*.safetensors"),
)
"""Nothing that could hold code, and no second copy of the weights in another format."""
_UNWANTED = ("*.fp16.safetensors", "*.non_ema.safetensors", "safety_checker/*")
_DENOISER = ("unet/*",)
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
        root = _from_hub(card.hub_id, source, card, revision=source.revision or card.revision)
        return _with_base(card, root, source)
    if _is_path(source.model):
        root = Path(source.model).expanduser()
        if not root.is_dir():
            raise ModelNotFoundError(f"model: {root} is not a folder")
        return _with_base(_recognise(root, list(cards.values())), root, source)
    if _HUB_ID.fullmatch(source.model):
        published = next((known for known in cards.values() if known.hub_id == source.model), None)
        revision = source.revision or (published.revision if published else "")
        root = _from_hub(source.model, source, published, revision=revision)
        return _with_base(published or _recognise(root, list(cards.values())), root, source)
    raise ModelNotFoundError(
        f"model: {source.model!r} is not one of {', '.join(sorted(cards))}, nor a folder, nor OWNER/NAME on the hub"
    )


def is_here(card: ModelCard) -> bool:
    """Whether a model's files are on this machine."""
    try:
        locate(ModelSource(model=card.name, offline=True))
    except ModelNotFoundError:
        return False
    return True


def denoiser_folder(root: Path, card: ModelCard | None = None) -> Path:
    """The folder of the denoiser: a subfolder of a whole pipeline, or the folder itself."""
    inside = root / (card.denoiser if card else DENOISER_SUBFOLDER)
    return inside if inside.is_dir() else root


def _is_path(text: str) -> bool:
    return text.startswith((".", "~", os.sep)) or Path(text).is_dir()


def _with_base(card: ModelCard, root: Path, source: ModelSource) -> ModelFiles:
    """Add where the other parts are: asked for, in the same folder, or published elsewhere."""
    leave = () if card.extends_base else _DENOISER
    if source.base:
        is_path = _is_path(source.base)
        base = Path(source.base).expanduser() if is_path else _from_hub(source.base, source, None, leave=leave)
        if not base.is_dir():
            raise ModelNotFoundError(f"base: {base} is not a folder")
    elif (root / "vae").is_dir() or not card.base_hub_id:
        base = root
    else:
        base = _from_hub(card.base_hub_id, source, card, leave=leave)
    return ModelFiles(card=card, denoiser=denoiser_folder(root, card), base=base)


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
    configs = [folder / "config.json" for folder in {denoiser_folder(root, card): None for card in cards}]
    for config in configs:
        if config.is_file():
            content = _read_json(config)
            for card in cards:
                if config.parent == denoiser_folder(root, card) and card.fits(content):
                    return card
    found = [f"{config} ({_read_json(config).get('_class_name')})" for config in configs if config.is_file()]
    names = ", ".join(card.name for card in cards)
    why = f"{', '.join(found)} fits none of {names}" if found else "no config.json (a LoRA alone is no model)"
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
    hub_id: str, source: ModelSource, card: ModelCard | None, *, revision: str = "", leave: tuple[str, ...] = ()
) -> Path:
    """The folder of a published model in the hub's cache; what matches ``leave`` is not needed."""
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
                ignore_patterns=[*_UNWANTED, *leave],
            )
        )
    except LocalEntryNotFoundError as error:
        why = "offline, and not in the hub's cache" if source.offline else "the hub cannot be reached"
        raise ModelNotFoundError(_missing(hub_id, revision, card, why)) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelNotFoundError(_missing(hub_id, revision, card, str(error).partition("\n")[0])) from error


def _missing(hub_id: str, revision: str, card: ModelCard | None, why: str) -> str:
    name = card.name if card else hub_id
    main = card.hub_id if card else hub_id
    commands = [f"hf download {main}" + (f" --revision {revision}" if revision and main == hub_id else "")]
    if card and card.base_hub_id:
        parts = _WHOLE if card.extends_base else f"--exclude '{_DENOISER[0]}'"
        commands.append(f"hf download {card.base_hub_id} {parts}")
    return (
        f"model: the files of {name} are not on this machine ({why}). Where there is a network: "
        f"{' && '.join(commands)}; they go to the hub's cache (HF_HOME), which can be copied here. Or give a folder "
        "that holds them: --model FOLDER"
    )
