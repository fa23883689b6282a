"""`vinf bench full-size`: the command that a machine with a GPU runs, on a toy without one."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.cli import main
from benchmarks.full_size import FULL_SIZE, TOY
from benchmarks.full_size_3d import FULL_SIZE_3D, TOYS_3D
from benchmarks.residency import residency
from benchmarks.serving import full_size as serving
from benchmarks.serving.full_size import Served
from benchmarks.settings import COUNTED, FullSizeSettings
from benchmarks.settings import FULL_SIZE_3D as NAMES_3D
from vinf_core.models.catalogue import catalogue
from vinf_core.models.locate import ModelSource
from vinf_core.models.registry import load_model

PUBLISHED_GIGABYTES = {
    "skyreels-v1-t2v": 25.64,
    "skyreels-v1-i2v": 25.64,
    "easyanimate-v5.1-7b": 13.6,
    "easyanimate-v5.1-12b": 23.6,
}
"""Of a transformer's files in bfloat16."""


@pytest.mark.fast
def test_every_model_has_its_published_size() -> None:
    assert tuple(FULL_SIZE) == COUNTED
    for name, model in FULL_SIZE.items():
        unet = model.outline(torch.float16).unet
        assert sum(parameter.numel() for parameter in unet.parameters()) == catalogue()[name].parameter_count


@pytest.mark.fast
@pytest.mark.parametrize("name", FULL_SIZE_3D)
def test_every_model_with_joint_attention_has_its_published_size(name: str) -> None:
    assert tuple(FULL_SIZE_3D) == NAMES_3D
    with torch.device("meta"):
        transformer = FULL_SIZE_3D[name].make_transformer()
    count = sum(parameter.numel() for parameter in transformer.parameters())
    assert count == catalogue()[name].parameter_count
    assert 2 * count / 1e9 == pytest.approx(PUBLISHED_GIGABYTES[name], abs=0.05)


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


@pytest.mark.fast
def test_weights_in_8_bits_and_on_the_host_take_less() -> None:
    """By hand, for HunyuanVideo's transformer without its text encoders and its VAE."""
    what = FULL_SIZE_3D["skyreels-v1-t2v"]
    with torch.device("meta"):
        transformer = what.make_transformer()
    model = what.around(
        torch.nn.Module.to(transformer, torch.bfloat16), torch.device("meta"), torch.bfloat16, with_texts=False
    )
    vae = 2 * 246_478_803
    found = {
        (fp8, offload): residency(model, what.blocks, fp8=fp8, offload=offload).denoise - vae
        for fp8 in (False, True)
        for offload in (False, True)
    }
    assert found[False, False] == 2 * 12_821_012_544
    dim = 3072
    # Queries, keys, values, projections and the two layers of the feed-forward, for video and for text; the modulations
    # of the norms stay. A single block has one of each, and a projection of both.
    double, single = 2 * 12 * dim**2, 12 * dim**2
    largest = 2 * 5 * dim**2
    assert found[True, False] == pytest.approx(2 * 12_821_012_544 - 20 * double - 40 * single + largest, rel=0.001)
    assert found[False, True] < 2.2e9
    assert found[True, True] < found[False, True]


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, ()) for name in TOYS_3D),
        ("toy-skyreels", ("--weights", "fp8")),
        ("toy-easyanimate", ("--offload", "blocks")),
    ],
)
def test_one_step_of_a_toy_beside_stock(
    name: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", name, "--device", "cpu", "--dtype", "float32", *options]
    assert main(["full-size", *arguments, "--json"]) == 0, capsys.readouterr().err
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    stock, engine = report["rows"]
    assert (stock["call"], engine["call"]) == ("stock diffusers", "engine")
    for row in report["rows"]:
        assert row["ms"]["median"] > 0
        assert row["peak GB"] > 0.1
    # The trained length: the same function.
    assert float(report["notes"][-1].split(" by ")[1].split()[0]) < 1e-4


@pytest.mark.fast
def test_lengths_are_those_that_the_model_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["full-size", "--model", "toy-easyanimate", "--device", "cpu", "--frames", "48"]) == 2
    assert "--frames: 48 is not a multiple of 4, plus 1: 45 or 49" in capsys.readouterr().err
