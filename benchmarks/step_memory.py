"""`vinf bench step-memory`: the peak of one step over what the loaded model holds, at several lengths.

Every figure comes from a fresh process: a heap that has grown before would hide what a step needs.
"""

from __future__ import annotations

import os
import statistics

import torch

from benchmarks.architectures import ARCHITECTURES
from benchmarks.engine import Contender, engine_call, stock_call
from benchmarks.models import build
from benchmarks.report import Report, Value, say
from benchmarks.settings import Settings
from benchmarks.subject import predicted_peak_bytes
from benchmarks.worlds import run_ranks
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.probe import peak_of

WARM_UP_FRAMES = 2


def run(settings: Settings, device: torch.device) -> list[Report]:
    """Measure every length the settings name, the engine beside stock diffusers."""
    report = Report(title=f"peak memory of a step over the loaded model, texts: {settings.texts}, one rank")
    peaks: dict[str, list[int]] = {"engine": [], "stock": []}
    for frames in settings.frames:
        say(f"{frames} frames")
        predicted = None
        for contender, found in peaks.items():
            peak, expected = run_ranks(1, settings, measure_peak, contender, frames)[0]
            found.append(peak)
            predicted = expected if contender == "engine" else predicted
        engine, stock = (found[-1] for found in peaks.values())
        row: dict[str, Value] = {
            "frames": frames,
            "engine MB": engine / 1e6,
            "engine MB/frame": engine / frames / 1e6,
            "stock MB": stock / 1e6,
            "engine/stock": engine / stock,
            "predicted MB": None if predicted is None else predicted / 1e6,
        }
        report.rows.append(row)
    if len(settings.frames) > 1:
        slopes = {name: statistics.linear_regression(settings.frames, found).slope for name, found in peaks.items()}
        report.notes.append(
            f"one more frame costs {slopes['engine'] / 1e6:.3g} MB in the engine, "
            f"{slopes['stock'] / 1e6:.3g} MB in stock diffusers"
        )
    if device.type == "cpu":
        tuned = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
        report.notes.append(f"largest resident set of the process; MALLOC settings: {tuned or 'none'}")
    return [report]


def measure_peak(
    topology: Topology, groups: Groups, settings: Settings, contender: str, frames: int
) -> tuple[int, int | None]:
    """Run one step in this fresh process; return bytes over idle, and what the engine predicts."""
    measured = build(settings, topology.device)

    def call_for(count: int) -> Contender:
        latents, text = measured.inputs(count, settings.texts)
        if contender == "stock":
            return stock_call(measured, latents, text)
        return engine_call(measured, latents, text, measured.model.limits.default_scope)

    call_for(WARM_UP_FRAMES)()  # libraries set themselves up in the first call
    expected = None
    # As a rank does, before anything else; a model with random weights has no text encoder to do it with.
    if contender == "engine" and settings.model not in ARCHITECTURES:
        expected = predicted_peak_bytes(measured.twin(), frames, settings.texts)
    idle = peak_of(lambda: None, topology.device)
    peak = peak_of(call_for(frames), topology.device) - idle
    return peak, None if expected is None else expected - idle
