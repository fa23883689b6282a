"""`vinf bench full-size`: the command that a machine with a GPU runs, on a toy without one."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.cli import main
from benchmarks.full_size import FULL_SIZE, TOY
from benchmarks.serving import full_size as serving
from benchmarks.serving.full_size import Served
from benchmarks.settings import COUNTED, FullSizeSettings
from vinf_core.models.catalogue import catalogue
from vinf_core.models.locate import ModelSource
from vinf_core.models.registry import load_model


@pytest.mark.fast
def test_every_model_has_its_published_size() -> None:
    assert tuple(FULL_SIZE) == COUNTED
    for name, model in FULL_SIZE.items():
        unet = model.outline(torch.float16).unet
        assert sum(parameter.numel() for parameter in unet.parameters()) == catalogue()[name].parameter_count


@pytest.mark.fast
def test_what_is_saved_is_the_model_that_is_named(tmp_path) -> None:
    TOY.save(tmp_path / "model", torch.float16)
    source = ModelSource(model=str(tmp_path / "model"), offline=True)
    model = load_model(source, options={}, device=torch.device("cpu"), dtype=torch.float32)
    assert model.limits.name == TOY.name
    assert all(parameter.any() for name, parameter in model.unet.named_parameters() if name.endswith("weight"))
    assert (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size < 1 << 20


@pytest.mark.fast
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_cuda_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["full-size"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no CUDA device on this machine" in line
    assert "--model toy --device cpu" in line


@pytest.mark.fast
def test_memory_is_counted_with_as_many_texts_at_once_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = FullSizeSettings(model="toy", device="cpu", frames=96)
    generation = SimpleNamespace(spec=SimpleNamespace(guidance_scale=7.5), peak_rank_memory_bytes=(10**9,))
    served = Served(0, 0, 0, generation, None, 0, 0)  # type: ignore[arg-type]
    found = {}
    for budget in (0, 10**12):
        monkeypatch.setattr(serving, "default_budget", lambda device, ranks, budget=budget: budget)
        row = serving._memory_report(TOY, settings, served).rows[0]
        found[row["texts of a step at once, counted"]] = row["peak of this video, counted, GB"]
    assert list(found) == [1, 2]
    assert found[1] < found[2]


@pytest.mark.process
def test_a_toy_through_the_real_server(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "toy", "--device", "cpu", "--dtype", "float32", "--frames", "20", "--steps", "3"]
    assert main(["full-size", *arguments, "--json"]) == 0, capsys.readouterr().err
    served, stock = (report["rows"][0] for report in json.loads(capsys.readouterr().out)["reports"])
    assert (served["size"], served["frames"], served["steps"], served["ranks"]) == ("64 x 64", 20, 3, 1)
    assert 0 < served["first frame after, s"] <= served["last frame after, s"]
    assert served["peak memory of a rank, tensors, GB"] > 0.1
    assert served["reserved for it, GB"] > 0.1
    assert served["longest video admitted at native size, frames"] > 20
    assert stock["frames"] == 16
    assert stock["frames/s"] > 0
