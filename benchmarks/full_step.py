"""`vinf bench full-size` for models with 3-D attention: one step at full size, beside the stock diffusers call.

Both compute on one and the same transformer with random weights, one after the other: first as diffusers made it, then,
with this engine's attention installed in it, as a rank has it. So a model is measured that fits a GPU once and not
twice. A video of the trained length sees itself whole, and then both compute the same function; by how much the results
differ is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.full_size_3d import FULL_SIZE_3D, TOYS_3D, FullSize3D
from benchmarks.report import Report, Value, say
from benchmarks.settings import FullSizeSettings, SettingsError
from benchmarks.subject import Subject
from benchmarks.timing import Spread
from vinf_core.distributed.topology import Topology
from vinf_core.engine.probe import peak_of
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.adapter import VideoModel
from vinf_core.models.weights import offload, quantise

TOY_SIZE = 64
"""Pixels of each side of a toy's pictures."""

REPEATS = 3
"""Calls that count, after one that does not."""

_STD = 0.02
"""Of weights that begin as zeros: else a layer would be an identity."""


def run(settings: FullSizeSettings) -> list[Report]:
    """Make the weights, take the stock call and the engine's step, and compare them.

    Raises:
        SettingsError: the length is none that the model takes.
        ConfigError: 8-bit weights want a package that is not installed.
    """
    what = TOYS_3D.get(settings.model) or FULL_SIZE_3D[settings.model]
    is_toy = settings.model in TOYS_3D
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    limits = what.limits()
    frames = settings.frames or limits.trained_frame_count
    grid = FrameGrid(limits.frames_per_latent)
    if not grid.fits(frames):
        near = " or ".join(map(str, grid.nearest(frames)))
        raise SettingsError(f"--frames: {frames} is not a multiple of {limits.frames_per_latent}, plus 1: {near}")
    width, height = (TOY_SIZE, TOY_SIZE) if is_toy else (limits.default_width, limits.default_height)
    say(f"random weights of {settings.model}")
    model = make_model(what, device, dtype, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (grid.latent_count(frames), *model.latent_shape(width, height))
    latents = torch.randn(shape, generator=generator).to(device, dtype)
    text = model.encode_text([""])
    report = Report(title=f"{settings.model}, random weights, {width} x {height}, {frames} frames: one text, one step")
    # Before anything is installed: `predict` is then the stock transformer's forward as the pipelines call it.
    stock: torch.Tensor | None = None
    if settings.stock:
        stock = _measure(report, "stock diffusers", lambda: model.predict(latents, 500.0, text[:, None]), device)
    subject = Subject(model, Topology.single(device))
    subject.begin(shape[0], grid.scope_in_latents(limits.default_scope))
    engine = _measure(report, "engine", lambda: subject.step(latents, text), device)
    report.notes = [
        f"{settings.dtype}, weights {settings.weights}, offload {settings.offload}; the median of {REPEATS} calls, "
        + ("CUDA events" if device.type == "cuda" else "wall time"),
        "one after the other on the same transformer; peak: all that is held, weights included"
        + ("" if device.type == "cuda" else ", of the process"),
        "the transformer and the VAE alone are loaded: texts are random",
    ]
    if stock is not None and engine is not None:
        difference = (engine.float() - stock.float()).norm() / stock.float().norm()
        report.notes.append(f"engine and stock differ by {difference.item():.2g} of the length of the result")
    return [report]


def make_model(what: FullSize3D, device: torch.device, dtype: torch.dtype, settings: FullSizeSettings) -> VideoModel:
    """The adapter around a transformer with random weights, as its options ask for; without text encoders.

    Weights are made where they stay and in ``dtype``, a module at a time, so that none is ever there twice.
    """
    home = torch.device("cpu") if settings.offload == "blocks" else device
    with torch.device("meta"):
        transformer = what.make_transformer()
    torch.manual_seed(settings.seed)
    transformer = torch.nn.Module.to(transformer, dtype).to_empty(device=home)
    for module in transformer.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
        for parameter in module.parameters(recurse=False):
            if reset is None:
                torch.nn.init.ones_(parameter)  # gains of norms that have no such method
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=_STD)
    transformer.eval().requires_grad_(False)
    if settings.weights == "fp8":
        quantise(transformer, what.blocks, device)
    if settings.offload == "blocks":
        offload(transformer, device)
    return what.around(transformer, device, dtype, with_texts=False)


def _measure(report: Report, name: str, step: Callable[[], torch.Tensor], device: torch.device) -> torch.Tensor | None:
    """Add a row; return what the last call computed, on the host; None: it does not fit."""
    say(name)
    made: list[torch.Tensor] = []
    seconds: list[float] = []

    def once() -> None:
        made[:] = [step()]

    row: dict[str, Value] = {"call": name}
    report.rows.append(row)
    try:
        once()
        for _ in range(REPEATS):
            seconds.append(_seconds(once, device))
        row |= {"ms": Spread.of(seconds).scaled(1000), "peak GB": peak_of(once, device) / 1e9}
    except torch.OutOfMemoryError:
        row |= {"ms": "does not fit", "peak GB": None}
        made.clear()
        torch.cuda.empty_cache()
        return None
    return made[0].cpu()


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
