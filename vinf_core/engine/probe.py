"""Measures at start-up what memory the engine takes on this device, and warms its kernels up on the way.

The peak of a pass of the denoiser is a line over the frames of the clip, once the slices (`context.slicing`) are full:
two passes of different lengths tell it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from vinf_core.distributed.control import ControlPlane
from vinf_core.engine.generator import Generator
from vinf_core.engine.memory import MemoryModel
from vinf_core.errors import ConfigError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")

_FEW_FRAMES = 16
PROBE_FRAMES = 256
"""Longest pass; small models need as many to fill their slices, and to stand out of the allocator's noise."""
_PROBE_SECONDS = 2.0
"""Longest pass, in time: large models give a clear signal with few frames."""

USABLE_SHARE = 0.9
"""Of a device's memory; the rest is for the driver's context, and for holes in what the allocator has handed out."""


def measure_memory(
    generator: Generator, control: ControlPlane, *, budget_bytes: int, largest_clip_share: float
) -> MemoryModel | None:
    """Measure on every rank at the same place; every rank gets the same numbers, those of the worst.

    Args:
        generator: this rank's.
        control: this rank's.
        budget_bytes: what this rank may use.
        largest_clip_share: see `MemoryModel`.

    Returns:
        None where the system does not tell the peak of a process.

    Raises:
        ConfigError: not even a text or one frame fits; on every rank alike.
    """
    device = generator.topology.device
    if min(control.gather(int(can_measure(device)))) == 0:
        return None
    limits = generator.model.limits
    pixels = limits.default_width * limits.default_height
    each = limits.frames_per_latent
    begun = max(1, _FEW_FRAMES // each) * each
    generator.probe(begun)  # kernels are chosen and caches filled
    generator.settle()
    started = time.perf_counter()
    generator.probe(begun)
    generator.settle()
    slowest = max(control.gather(round(1e6 * (time.perf_counter() - started)))) / 1e6
    few, many = probe_lengths(begun, slowest, each)
    text = peak_of(generator.probe_text, device)
    generator.settle()
    low, high = (peak_of(partial(generator.probe, frames), device) for frames in (few, many))
    idle = peak_of(lambda: None, device)
    own = MemoryModel.fitted(
        lengths=(few, many),
        peaks=(low, high),
        idle_bytes=idle,
        decode_peak=peak_of(generator.probe_decode, device),
        pixels=pixels,
        budget_bytes=budget_bytes,
        largest_clip_share=largest_clip_share,
    )
    model = replace(
        own,
        budget_bytes=min(control.gather(own.budget_bytes)),
        fixed_bytes=max(control.gather(own.fixed_bytes)),
        bytes_per_frame_pixel=max(control.gather(round(1e6 * own.bytes_per_frame_pixel))) / 1e6,
        decode_fixed_bytes=max(control.gather(own.decode_fixed_bytes)),
        decode_bytes_per_pixel=max(control.gather(round(1e6 * own.decode_bytes_per_pixel))) / 1e6,
    )
    # A text takes what it takes, whatever the video: where it fits once, it always does.
    smallest = max(model.denoise_bytes(1, pixels), model.decode_bytes(pixels), *control.gather(text))
    if smallest > model.budget_bytes:
        raise ConfigError(
            f"memory budget: {model.budget_bytes} bytes are less than the {smallest} bytes that a rank needs for a "
            f"text and one frame of {limits.default_width}x{limits.default_height} pixels"
        )
    return model


def probe_lengths(begun: int, seconds: float, frames_per_latent: int) -> tuple[int, int]:
    """Choose the two passes to measure: as long as takes a second or two, whole latent frames, and never the same.

    Args:
        begun: frames of a pass that was timed.
        seconds: what it took the slowest rank.
        frames_per_latent: of the model.
    """
    most = min(PROBE_FRAMES, int(begun * _PROBE_SECONDS / max(seconds, 1e-6)))
    many = max(2, 2 * begun // frames_per_latent, most // frames_per_latent)
    return many // 2 * frames_per_latent, many * frames_per_latent


def default_budget(device: torch.device, local_world_size: int) -> int:
    """What a rank may use unless told otherwise: a GPU's memory, or its share of the machine's, less a tenth."""
    if device.type == "cuda":
        return int(USABLE_SHARE * torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such file, or "max"
        machine = min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return int(USABLE_SHARE * machine / local_world_size)


def can_measure(device: torch.device) -> bool:
    """Whether `peak_memory` can begin anew."""
    return device.type == "cuda" or (os.access(_CLEAR, os.W_OK) and "VmHWM" in _STATUS.read_text())


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new measurement of `peak_memory` where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif can_measure(device):
        _CLEAR.write_text("5")  # man 5 proc: resets the peak resident set size


def peak_memory(device: torch.device) -> int:
    """Most memory held since `reset_peak_memory`, in bytes: by the allocator on a GPU, by the process on a CPU.

    Where the system cannot begin anew: since the process started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if can_measure(device):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """Run ``work``; return the most memory held meanwhile, in bytes, as `peak_memory` counts it."""
    if device.type == "cpu":
        _give_back_free_memory()
    reset_peak_memory(device)
    work()
    return peak_memory(device)


def _give_back_free_memory() -> None:
    """What the allocator keeps for later would count as held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
