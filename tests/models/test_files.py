"""Mistakes in a model's files: one sentence each, before anything is computed, and nothing in them is ever executed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.published import save_modelscope, save_videocrafter2
from vinf_core.errors import ConfigError, ModelFilesError, ModelNotFoundError
from vinf_core.models.catalogue import ModelCard, catalogue
from vinf_core.models.locate import ModelSource, locate
from vinf_core.models.registry import load_model
from vinf_server.config import ServeConfig
from vinf_server.flag_values import ConfigError as FlagError
from vinf_server.model_choice import check_model

pytestmark = pytest.mark.fast

UNET = Path("unet", "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    save_modelscope(folder)
    return folder


@pytest.fixture(scope="module")
def videocrafter2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videocrafter2")
    save_videocrafter2(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def load(model: Path, **options: str) -> None:
    source = ModelSource(model=str(model), offline=True)
    load_model(source, options=options, device=torch.device("cpu"), dtype=torch.float32)


class Bomb:
    """Unpickling it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


def test_a_missing_file(folder: Path) -> None:
    for name in (
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
    ):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(ModelFilesError, match=f"{folder / name} is missing"):
            load(folder)
        (folder / name).write_bytes(kept)
    load(folder)


def test_a_missing_folder(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    with pytest.raises(ModelFilesError, match=f"the folder {folder / 'vae'} is missing"):
        load(folder)


def test_no_tokenizer(folder: Path) -> None:
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(ModelFilesError, match=r"tokenizer/vocab.json is missing"):
        load(folder)


@pytest.mark.parametrize("kept", [0, 5, 200, -100, -1])
def test_weights_cut_short(folder: Path, kept: int) -> None:
    data = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(data[:kept])
    with pytest.raises(ModelFilesError, match=f"{folder / UNET} is .*cut short: {len(data[:kept])} bytes"):
        load(folder)


def test_weights_that_are_too_long(folder: Path) -> None:
    with (folder / UNET).open("ab") as file:
        file.write(b"more")
    with pytest.raises(ModelFilesError, match="is too long"):
        load(folder)


def test_weights_with_a_damaged_header(folder: Path) -> None:
    data = bytearray((folder / UNET).read_bytes())
    data[8] = ord("x")
    (folder / UNET).write_bytes(data)
    with pytest.raises(ModelFilesError, match="its header cannot be read"):
        load(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    weights = load_file(folder / UNET)
    weights["conv_in.weight"] = torch.zeros(8, 3, 3, 3)
    save_file(weights, folder / UNET)
    with pytest.raises(ModelFilesError, match=r"unet.*conv_in.weight"):
        load(folder)


def test_weights_that_lack_a_tensor(folder: Path) -> None:
    weights = load_file(folder / UNET)
    del weights["conv_out.bias"]
    save_file(weights, folder / UNET)
    with pytest.raises(ModelFilesError, match=r"1 missing keys: conv_out.bias"):
        load(folder)


def test_weights_of_another_model(folder: Path, tmp_path: Path) -> None:
    """Those of a denoiser that knows frame rates, with the configuration of one that does not."""
    save_videocrafter2(tmp_path / "other")
    shutil.copy(tmp_path / "other" / UNET.name, folder / UNET)
    with pytest.raises(ModelFilesError, match=r"unexpected keys: fps_embedding"):
        load(folder)


def test_another_class(folder: Path) -> None:
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "AutoencoderKLMagvit"}))
    with pytest.raises(ModelFilesError, match=r"vae/config.json is of class AutoencoderKLMagvit, wanted AutoencoderKL"):
        load(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_configuration_that_is_none(folder: Path, text: str) -> None:
    (folder / "vae" / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ModelFilesError, match=r"vae/config.json (cannot be read|holds no JSON object)"):
        load(folder)


def test_a_pickle_is_refused_and_never_opened(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (folder / UNET).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ModelFilesError, match=r"diffusion_pytorch_model.bin, a pickle, which may execute code"):
        load(folder)
    assert not mark.exists()


def test_code_in_a_folder_is_never_imported(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for place in (folder, folder / "unet"):
        for name in ("pipeline.py", "modeling.py", "__init__.py"):
            (place / name).write_text(f"open({str(mark)!r}, 'w')")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["pipeline", "Evil"]}))
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling.Evil"}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    load(folder)
    assert not mark.exists()


def test_weights_in_several_files_and_in_half_precision(folder: Path) -> None:
    weights = load_file(folder / UNET)
    (folder / UNET).unlink()
    names = sorted(weights)
    parts = {f"part-{i}.safetensors": names[i::2] for i in range(2)}
    for name, keys in parts.items():
        save_file({key: weights[key] for key in keys}, folder / "unet" / name, metadata={"format": "pt"})
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    weight_map = {key: name for name, keys in parts.items() for key in keys}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    load(folder)
    (folder / "unet" / "part-1.safetensors").unlink()
    with pytest.raises(ModelFilesError, match=r"part-1.safetensors is missing"):
        load(folder)
    index.unlink()
    halves = {key: value.half() for key, value in weights.items()}
    save_file(halves, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", metadata={"format": "pt"})
    load(folder)


def test_what_is_no_model(tmp_path: Path) -> None:
    for words, prepare in (
        ("no config.json", lambda: None),
        ("fits none of", lambda: (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')),
        ("names 'zebra', not one of", lambda: (tmp_path / "vinf.json").write_text('{"model": "zebra"}')),
        ("vinf.json cannot be read", lambda: (tmp_path / "vinf.json").write_text("{")),
    ):
        prepare()
        with pytest.raises(ModelNotFoundError, match=words):
            locate(ModelSource(model=str(tmp_path)))


def test_what_is_not_here(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"hf download a/b --revision v1; they go"):
        locate(ModelSource(model="a/b", revision="v1", offline=True))
    with pytest.raises(ModelNotFoundError, match=r"offline, and not in the hub's cache"):
        locate(ModelSource(model="modelscope", offline=True))
    (tmp_path / "vinf.json").write_text('{"model": "videocrafter2"}')
    with pytest.raises(ModelNotFoundError, match=r"base: nowhere is not a folder"):
        locate(ModelSource(model=str(tmp_path), base="./nowhere"))


def test_what_is_missing_is_named_and_nothing_else(videocrafter2: Path) -> None:
    base = "ali-vilab/text-to-video-ms-1.7b"
    main, rest = "hf download adamdad/videocrafterv2_diffusers", f"hf download {base} --exclude 'unet/*'"
    for source, field, command, flag in (
        (ModelSource(model="videocrafter2", offline=True), "model", f"{main} && {rest}", "--model"),
        (ModelSource(model="videocrafter2", base="a/b", offline=True), "model", main, "--model"),
        (ModelSource(model=str(videocrafter2), offline=True), "model", rest, "--model-base"),
        (
            ModelSource(model=str(videocrafter2), base="a/b", offline=True),
            "base",
            "hf download a/b --exclude 'unet/*'",
            "--model-base",
        ),
    ):
        with pytest.raises(ModelNotFoundError) as caught:
            locate(source)
        text = str(caught.value)
        assert text.startswith(f"{field}: ")
        assert f"Where there is a network: {command}; they go" in text
        assert text.endswith(f": {flag} FOLDER")
    with pytest.raises(ModelNotFoundError, match=r"^base: 'zebra' is neither a folder nor OWNER/NAME on the hub"):
        locate(ModelSource(model=str(videocrafter2), base="zebra", offline=True))


def test_a_bad_base_is_reported_under_its_flag(videocrafter2: Path) -> None:
    for base in ("zebra", "a/b", "./nowhere"):
        with pytest.raises(FlagError, match=r"^--model-base: "):
            check_model(ServeConfig(ranks=1, model=str(videocrafter2), model_base=base, offline=True))


def test_options_are_checked() -> None:
    card = catalogue()["videocrafter2"]
    assert card.choose({}) == {"latent-scale": "on"}
    assert card.choose({"latent-scale": "off"}) == {"latent-scale": "off"}
    with pytest.raises(ConfigError, match=r"latent-scale=maybe is not one of on, off"):
        card.choose({"latent-scale": "maybe"})
    with pytest.raises(ConfigError, match=r"videocrafter2 has no 'colour', it has latent-scale"):
        card.choose({"colour": "red"})


def test_names_are_what_users_can_type() -> None:
    with pytest.raises(ValueError, match="'My Model' is not made of"):
        ModelCard(
            name="My Model",
            title="",
            adapter="",
            licence="",
            parameter_count=0,
            width=0,
            height=0,
            frame_count=0,
            frame_rate=0,
        )
