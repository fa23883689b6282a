"""`vinf bench memory`: the way from latents to frames on their way to the front, with each of its features on and off.

Every figure comes from a fresh process, whose heap has no past. In each turn the way is taken as it is served and once
for every feature with that one changed; a ratio is taken within a turn. One turn before counts what torch's allocator
hands out and is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.allocations import HandedOut, handed_out
from benchmarks.heap import Heap
from benchmarks.report import Report, Value, say
from benchmarks.serving.conditions import Images, Kept, Prompts
from benchmarks.serving.data_path import DataPath, tiny_vae
from benchmarks.settings import MemorySettings, Settings
from benchmarks.timing import Spread, ratio
from benchmarks.worlds import run_ranks
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology, select_device
from vinf_core.engine.probe import peak_of

SERVED = "as it is served"

CHANGED = {
    "streaming": "decoded at once, by the stock VAE",
    "buffers": "new host buffers for each chunk",
    "conversion": "converted to 8 bit frame by frame",
    "overlap": "",
    "sending": "each frame waited for until it is sent",
}
"""What is different where a feature is off. ``overlap`` is on or off by the device, and changed to the other."""

_OVERLAP = {True: "handed over while the next chunk is decoded", False: "handed over before the next chunk is decoded"}

_CACHED = {"prompts": Prompts, "images": Images}


@dataclass(frozen=True, slots=True)
class Sample:
    """One video in one process."""

    seconds: float
    first_frame_s: float
    peak_bytes: int
    """Over what the loaded VAE and the latents hold; of the process on a CPU, of torch's allocator on a GPU."""
    heap: Heap | None
    """When most of it was idle."""
    handed_out: HandedOut | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """The second encoding of the same conditions."""

    seconds: float
    handed_out: HandedOut
    kept: Kept


def run(settings: MemorySettings) -> list[Report]:
    """Measure the features that the settings name."""
    on_gpu = select_device(settings.device, 0, 1).type == "cuda"
    ways: dict[str, dict[str, bool]] = {SERVED: {}}
    for name, changed in CHANGED.items():
        if name in settings.features:
            ways[changed or _OVERLAP[not on_gpu]] = {name: not on_gpu if name == "overlap" else False}
    reports = []
    if len(ways) > 1:
        reports.append(_path_report(settings, ways, on_gpu=on_gpu))
    caches = [name for name in _CACHED if name in settings.features]
    if caches:
        reports.append(_cache_report(settings, caches))
    return reports


def measure_way(
    topology: Topology,
    groups: Groups,
    asked: Settings,
    settings: MemorySettings,
    way: dict[str, bool],
    is_counted: bool,
) -> Sample:
    """Deliver the video once in this fresh process; either count what is handed out or take the time."""
    dtype: torch.dtype = getattr(torch, settings.dtype)
    vae = tiny_vae(topology.device, dtype)
    DataPath(vae, 5, (64, 64)).deliver(**way)  # libraries set themselves up in the first call
    path = DataPath(vae, settings.frames, settings.sides)
    idle = peak_of(lambda: None, topology.device)
    found: list[Any] = []

    def work() -> None:
        found.append(path.deliver(**way))

    if is_counted:
        counted = handed_out(work, topology.device)
        return Sample(found[0].seconds, found[0].first_frame_s, 0, None, counted)
    peak = peak_of(work, topology.device) - idle
    (delivered,) = found
    assert delivered.frames == settings.frames
    return Sample(delivered.seconds, delivered.first_frame_s, peak, path.heap.worst)


def measure_again(
    topology: Topology, groups: Groups, asked: Settings, settings: MemorySettings, name: str, is_cached: bool
) -> Again:
    """Encode the conditions of a generation, and measure how long it takes to have them a second time."""
    device, dtype = topology.device, getattr(torch, settings.dtype)
    conditions: Any
    if name == "prompts":
        conditions = Prompts(device, dtype, is_cached=is_cached)
    else:
        conditions = Images(tiny_vae(device, dtype), settings.frames, settings.sides, is_cached=is_cached)
    made = conditions.encode()
    began = time.perf_counter()
    conditions.encode()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    return Again(seconds, handed_out(conditions.encode, device), conditions.kept(made))


def _path_report(settings: MemorySettings, ways: dict[str, dict[str, bool]], *, on_gpu: bool) -> Report:
    counted: dict[str, HandedOut] = {}
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for turn in range(settings.repeats + 1):
        order = list(ways) if turn % 2 else list(reversed(ways))
        for name in order:
            say(f"turn {turn} of {settings.repeats}: {name}")
            sample: Sample = _alone(settings, measure_way, ways[name], turn == 0)
            if sample.handed_out is not None:
                counted[name] = sample.handed_out
            else:
                samples[name].append(sample)
    width, height = settings.sides
    report = Report(title=f"{settings.frames} frames of {width} x {height}, from latents to the front")
    for name, found in samples.items():
        report.rows.append(_row(name, settings, found, samples[SERVED], counted[name]))
    what = "torch's allocator on the GPU" if on_gpu else "the process (largest resident set)"
    report.notes = [
        f"peak: of {what}, over what the loaded VAE and the latents hold; tensors, allocations: of torch's allocator",
        "idle: reserved by the allocator and not handed out, when that was most"
        + ("" if on_gpu else " (glibc's, mallinfo2)"),
        "ratios are to the way as it is served, within each turn",
    ]
    return report


def _row(
    name: str, settings: MemorySettings, found: list[Sample], served: list[Sample], counted: HandedOut
) -> dict[str, Value]:
    heaps = [sample.heap for sample in found if sample.heap is not None]

    def spread(of: Callable[[Sample], float], scale: float = 1) -> Spread:
        return Spread.of([of(sample) for sample in found]).scaled(scale)

    def against_served(of: Callable[[Sample], float]) -> Spread | None:
        return None if name == SERVED else ratio([of(s) for s in found], [of(s) for s in served])

    return {
        "the way": name,
        "s/frame": spread(lambda sample: sample.seconds, 1 / settings.frames),
        "time ratio": against_served(lambda sample: sample.seconds),
        "first frame, s": spread(lambda sample: sample.first_frame_s),
        "peak MB": spread(lambda sample: sample.peak_bytes, 1e-6),
        "peak ratio": against_served(lambda sample: sample.peak_bytes),
        "tensors, peak MB": counted.peak_bytes / 1e6,
        "allocations": counted.allocations,
        "idle MB": Spread.of([heap.idle / 1e6 for heap in heaps]) if heaps else None,
        "idle % of reserved": Spread.of([100 * heap.idle_share for heap in heaps]) if heaps else None,
    }


def _cache_report(settings: MemorySettings, names: list[str]) -> Report:
    report = Report(title="the same prompts and the same image in a second generation")
    for name in names:
        found: dict[bool, list[Again]] = {True: [], False: []}
        for turn in range(settings.repeats):
            for is_cached in (True, False) if turn % 2 else (False, True):
                say(f"{name}, {'kept' if is_cached else 'not kept'}, turn {turn + 1} of {settings.repeats}")
                found[is_cached].append(_alone(settings, measure_again, name, is_cached))
        for is_cached, again in found.items():
            report.rows.append(
                {
                    "conditions": f"{name}, {'kept' if is_cached else 'encoded again'}",
                    "ms": Spread.of([1000 * each.seconds for each in again]),
                    "tensors, peak MB": again[0].handed_out.peak_bytes / 1e6,
                    "allocations": again[0].handed_out.allocations,
                    "entries": again[0].kept.entries,
                    "held, MB": again[0].kept.byte_count / 1e6,
                }
            )
    report.notes.append("text encoder and VAE are small and their weights random: published ones take longer")
    return report


def _alone(settings: MemorySettings, measure: Callable[..., Any], *args: Any) -> Any:
    asked = Settings(device=settings.device, threads=settings.threads)
    return run_ranks(1, asked, measure, settings, *args)[0]
