"""The committed weights: size, layout, vocabulary, and a clip made by the stock pipeline."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from training.sprites import tracker, world

FOLDER = Path(__file__).parents[2] / "vinf_core" / "assets" / "sprites"


def stored_types(file):
    """Tensor types in a safetensors header."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}


@pytest.mark.fast
def test_folder_is_small():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 12_000_000


@pytest.mark.fast
def test_layout_is_that_of_a_stock_pipeline():
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "TextToVideoSDPipeline"
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        assert part in index
        assert (FOLDER / part).is_dir()


@pytest.mark.fast
def test_weights_are_stored_in_the_promised_types():
    assert stored_types(FOLDER / "unet" / "diffusion_pytorch_model.safetensors") == {"F16"}
    assert stored_types(FOLDER / "vae" / "diffusion_pytorch_model.safetensors") == {"F16"}
    assert stored_types(FOLDER / "text_encoder" / "model.safetensors") <= {"F32", "I64"}


@pytest.mark.fast
def test_vocabulary_is_that_of_the_world():
    assert json.loads((FOLDER / "vocabulary.json").read_text()) == world.vocabulary()


@pytest.mark.fast
def test_settings_say_how_to_use_the_model():
    settings = json.loads((FOLDER / "vinf.json").read_text())
    assert settings["trained_frame_count"] == world.CLIP_FRAMES
    assert settings["default_solver"] in ("ddim", "dpmsolver++")
    assert settings["default_guidance_scale"] > 1.0
    assert settings["default_steps"] > 0
    assert settings["frame_rate"] > 0


@pytest.mark.process
@pytest.mark.filterwarnings("ignore")
def test_stock_diffusers_makes_a_recognisable_clip(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    settings = json.loads((FOLDER / "vinf.json").read_text())
    pipeline = diffusers.TextToVideoSDPipeline.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True)
    for word in world.vocabulary():
        assert len(pipeline.tokenizer(word).input_ids) == 3, word
    spec = world.Spec("ball", "red", "bouncing", "sea")
    frames = pipeline(
        spec.caption(),
        num_frames=16,
        num_inference_steps=12,
        guidance_scale=settings["default_guidance_scale"],
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).frames[0]
    score = tracker.score(np.rint(frames * 255).astype(np.uint8), spec)
    assert score.visible >= 0.8
    assert score.colour >= 0.8
    assert score.background >= 0.9
