"""Arguments of `vinf bench`, and one small real run of each command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import engine
from benchmarks.cli import main, parse_settings
from benchmarks.models import latent_size, outline
from benchmarks.settings import Settings
from benchmarks.traffic import weigh_frame

ROOT = Path(__file__).parents[2]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engine", "--frames", "16,x"], "'16,x' is not whole numbers separated by commas"),
        (["engine", "--frames", "0"], "--frames: wants whole numbers of 1 or more"),
        (["engine", "--dtype", "int8"], "float32"),
        (["engine", "--model", "sora"], "sprites"),
        (["engine", "--random-weights", "sora"], "videocrafter2"),
        (["engine", "--texts", "3"], "--texts: 3 is not 1 (no guidance) or 2 (guidance)"),
        (["engine", "--repeats", "0"], "--repeats: 0 is less than 1"),
        (["engine", "--width", "70"], "--width: 70 is not a multiple of 16 in [32, 128]"),
        (["scale", "--ranks", "1"], "--ranks: 1 is less than 2"),
        (["scale", "--ranks", "3", "--frames", "2"], "--frames: 2 is less than one frame for each of 3 ranks"),
        (["delivery", "--readers", "0"], "--readers: 0 is less than 1"),
        (["delivery", "--small-readers", "0"], "--small-readers: 0 is less than 1"),
        (["delivery", "--seconds", "nan"], "--seconds: nan is not in [0.1, 600]"),
        (["clients", "--frames", "0"], "--frames: 0 is less than 1"),
        (["clients", "--cpp", "/nowhere"], "--cpp: /nowhere is no program"),
        (["metrics", "--steps", "0"], "--steps: 0 is less than 1"),
        (["metrics", "--device", "tpu"], "cuda"),
        (["capacity", "--models", "sora"], "--models: 'sora' is not one of videocrafter2, zeroscope-v2, modelscope"),
        (["capacity", "--ranks", "0"], "--ranks: wants whole numbers of 1 or more"),
        (["memory", "--features", "magic"], "--features: 'magic' is not one of streaming, buffers, conversion"),
        (["memory", "--frames", "48"], "--frames: 48 is not a multiple of 4, plus 1"),
        (["memory", "--size", "1024"], "--size: '1024' is not WIDTHxHEIGHT, multiples of 8 in [16, 8192]"),
        (["memory", "--size", "20x16"], "--size: '20x16' is not WIDTHxHEIGHT"),
        (["memory", "--repeats", "0"], "--repeats: 0 is less than 1"),
        (["full-size", "--model", "sora"], "videocrafter2"),
        (["full-size", "--frames", "-1"], "--frames: -1 is less than 0"),
        (
            ["full-size", "--weights", "fp8"],
            "--weights: fp8 is for models with 3-D attention",
        ),
        (["full-size", "--model", "toy-skyreels", "--offload", "all"], "--offload: 'all' is not one of none, blocks"),
        (["full-size", "--model", "toy-skyreels", "--ranks", "2"], "one step on one rank is measured"),
        (["full-size", "--steps", "-1"], "--steps: -1 is less than 0"),
        (["dance"], "engine"),
        ([], "COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_that_names_what_is_allowed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as left:
        code = int(left.code or 0)
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.startswith("vinf bench: building")]
    assert code == 2
    assert not printed.out
    assert len(lines) == 1, printed.err
    assert message in lines[0]


@pytest.mark.fast
def test_random_weights_take_the_place_of_the_model() -> None:
    command, settings, wants_json = parse_settings(["decode", "--random-weights", "mid", "--frames", "4,8", "--json"])
    assert (command, settings.model, settings.frames, wants_json) == ("decode", "mid", (4, 8), True)


@pytest.mark.fast
def test_options_are_measured_with_and_without() -> None:
    settings = Settings(frames=(2,), texts=1, repeats=1, options=True)
    reports = engine.run(settings, torch.device("cpu"))
    assert [row["option"] for row in reports[-1].rows] == ["query blocks", "slices"]


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """Run a command as users do, and take its tables from the one line that it prints."""
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["command"] == ["vinf", "bench", *arguments, "--json"]
    assert found["machine"]["torch"] == torch.__version__
    reports: list[dict[str, Any]] = found["reports"]
    return reports


@pytest.mark.process
def test_engine(capsys: pytest.CaptureFixture[str]) -> None:
    reports = bench(capsys, "engine", "--frames", "4,32", "--repeats", "1", "--texts", "1")
    assert [len(report["rows"]) for report in reports] == [2, 5]
    for report in reports:
        for row in report["rows"]:
            assert row["ms/frame-forward"]["low"] > 0
            assert row["% of peak"]["median"] > 0
        assert report["rows"][1]["time ratio"]["median"] > 0
        assert float(report["notes"][1].split(" by ")[1].split()[0]) < 1e-4, "not the same function as stock"


@pytest.mark.process
def test_scale(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = bench(capsys, "scale", "--frames", "8", "--repeats", "2", "--texts", "1")[0]["rows"]
    assert row["speed-up"]["median"] > 0
    assert 0 < row["communication, % of a step"] < 100
    assert row["MB received a step"] > 0
    assert row["exchanges"] > 0


@pytest.mark.process
def test_step_memory(capsys: pytest.CaptureFixture[str]) -> None:
    report = bench(capsys, "step-memory", "--frames", "32", "--texts", "1")[0]
    (row,) = report["rows"]
    # The largest tensor alone, the first transformer's feed-forward, is 64 positions * 32 frames * 512 floats.
    assert row["engine MB"] > 4
    assert row["stock MB"] > 4


@pytest.mark.process
def test_communication_counts_what_it_computes_from_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    shapes, counted = bench(capsys, "communication", "--frames", "192,2304", "--ranks", "8")
    assert shapes["rows"][0]["engine"] == shapes["rows"][1]["engine"]
    engine, published = counted["rows"]
    assert engine["counted/shapes"] == 1.0
    # Two ranks: padding from one side only, and half of the global frames.
    height, width = latent_size(Settings())
    frame = weigh_frame(outline(Settings()), height=height, width=width, texts=2, item_bytes=4)
    expected = (8 + 8) * 2 * frame.attention + 4 * frame.convolution
    assert published["MB received"] * 1e6 == pytest.approx(expected)
    assert published["exchanges of frames"] == 4 * frame.attentions + frame.convolutions
    assert published["all-reduces"] == 0


@pytest.mark.process
def test_decode(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = bench(capsys, "decode", "--frames", "6", "--repeats", "1")[0]["rows"]
    assert row["time ratio"]["median"] > 0


@pytest.mark.process
def test_delivery(capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--width", "320", "--height", "320", "--frames", "4")
    clients = (
        "--readers",
        "2",
        "--small-readers",
        "3",
        "--watchers",
        "20",
        "--creators",
        "9",
        "--seconds",
        "0.5",
        "--repeats",
        "1",
    )
    rows = bench(capsys, "delivery", *size, *clients)[0]["rows"]
    assert [(row["load"], row["clients"]) for row in rows] == [
        ("alone", 0),
        ("large frames", 2),
        ("watchers", 20),
        ("creators", 9),
        ("small frames", 3),
    ]
    for row in rows:
        assert 0 < row["p50 ms"] <= row["p99 ms"]
        assert row["server MB"] > 10
    assert all(rows[place]["frames MB/s"]["median"] > 0 for place in (1, 4))


@pytest.mark.process
def test_clients(capsys: pytest.CaptureFixture[str]) -> None:
    ages, rates = bench(capsys, "clients", "--frames", "4", "--repeats", "1", "--seconds", "3")
    assert [row["reader"] for row in ages["rows"]] == ["plain stream", "Python, latency low", "Python, puller"]
    for row in ages["rows"]:
        assert row["frames"] > 1
        assert 0 < row["p50 ms"] <= row["p95 ms"]
    assert [(row["picture"], row["reader"]) for row in rates["rows"]] == [
        (picture, reader)
        for picture in ("512x320 rgb24", "1280x720 bgra8")
        for reader in ("bare gRPC, Python", "Python, frames", "Python, puller")
    ]
    assert all(row["frames/s"]["median"] > 0 for row in rates["rows"])


@pytest.mark.process
def test_ctrl_c_ends_quietly_and_leaves_no_rank() -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cli", "scale", "--frames", "2", "--texts", "1", "--repeats", "1000000"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stderr is not None
    try:
        for line in running.stderr:
            if "turn 0" in line:
                break
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the ranks get it too
        rest = running.stderr.read()  # ends when the last process of the group has let go of it
        assert running.wait(30) == 130
        assert "Traceback" not in rest
    finally:
        running.kill()
        running.stderr.close()
