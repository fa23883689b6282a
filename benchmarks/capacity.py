"""`vinf bench capacity`: how long a video a GPU's memory allows at a model's native size, counted without the GPU.

A rank measures at its start what two passes of the denoiser and a decoded slice hold, and admits what the line through
them allows. Here the same passes run on the meta device and their tensors are counted (`benchmarks.allocations`); the
line and the rule are the engine's own.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from benchmarks.allocations import count_peak
from benchmarks.full_size import FULL_SIZE
from benchmarks.full_size_3d import FULL_SIZE_3D
from benchmarks.report import Report, Value, say
from benchmarks.residency import Residency, residency
from benchmarks.settings import CapacitySettings
from vinf_core.context.clip_context import ClipContext
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.diffusion.denoise import denoise
from vinf_core.distributed.exchange import Exchange, FramePlan, UnderWay
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.engine.memory import MemoryModel
from vinf_core.engine.probe import PROBE_FRAMES, USABLE_SHARE
from vinf_core.events import Agreement, StageClock, Verdict
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.adapter import VideoModel
from vinf_core.types import GenerationSpec, ModelLimits

_SOLVER_STEPS = 4
"""As many as fill the history of every solver."""

_SOLVER_FRAMES = (8, 16)


@dataclass(frozen=True, slots=True)
class Counted:
    """What one rank of a group holds, in bytes."""

    weights_bytes: int
    memory: MemoryModel
    """As the rank would measure it; its budget is 0."""


class SilentExchange(Exchange):
    """Takes the memory that an exchange takes, and sends nothing."""

    shared: tuple[torch.Tensor, ...] = ()
    """What rank 0 would share."""

    def begin(self, own: torch.Tensor, plan: FramePlan) -> UnderWay:
        """Make what is sent and the buffers that it comes in."""
        sent = [own.index_select(1, self._index(frames)) for _, frames in plan.sends]
        before: list[torch.Tensor] = []
        after: list[torch.Tensor] = []
        for peer, count in plan.receives:
            buffer = own.new_empty((own.shape[0], count, *own.shape[2:]))
            (before if peer < self._topology.rank else after).append(buffer)
        return UnderWay(self._clock, [_Done()], sent, before, after)  # type: ignore[list-item]

    def gather(self, own: torch.Tensor) -> list[torch.Tensor]:
        """Make the buffers of what the others have."""
        return [own, *(torch.empty_like(own) for _ in range(self._topology.world_size - 1))]

    def share(self, tensors: Sequence[torch.Tensor] | None) -> tuple[torch.Tensor, ...]:
        """Give what was put into ``shared``, as if it had come."""
        return self.shared if tensors is None else tuple(tensors)


class _Done:
    def wait(self) -> bool:
        return True


def count(model: VideoModel, ranks: int, *, lengths: tuple[int, int] = (PROBE_FRAMES // 2, PROBE_FRAMES)) -> Counted:
    """Count what a rank in the middle of ``ranks`` holds; the model's own modules are changed.

    Args:
        model: on the meta device to count a GPU's memory, on a CPU to count a CPU's.
        ranks: in the group.
        lengths: frames of the two passes; those of a device that is fast enough.
    """
    topology = Topology(rank=ranks // 2, world_size=ranks, device=model.device)
    clock = StageClock(torch.device("cpu"))
    exchange = Exchange(topology, None, clock)
    if ranks > 1:
        exchange = silent = SilentExchange(topology, None, clock)
        if model.text_on_one_rank:
            silent.shared = (model.encode_text([""]),)
    generator = Generator(model, topology, exchange, clock)
    generator.probe(lengths[0])  # as where it is measured: what is kept from the first pass on is there
    # Only tensor cores compute in an order of their own.
    peak_of = partial(count_peak, held=_tensors(model), workspaces=model.dtype.itemsize < 4)
    weights = peak_of(lambda: None)
    memory = MemoryModel.fitted(
        lengths=lengths,
        peaks=(peak_of(partial(generator.probe, lengths[0])), peak_of(partial(generator.probe, lengths[1]))),
        idle_bytes=weights,
        decode_peak=peak_of(generator.probe_decode),
        pixels=_pixels(model.limits),
        budget_bytes=0,
        largest_clip_share=1 / ranks,
    )
    return Counted(weights, memory)


def count_solver(model: VideoModel) -> float:
    """Count what the denoising loop holds besides the denoiser, in bytes a frame.

    These are latents, predictions and the solver's history, which the ranks' measurement leaves out.
    """
    limits, device = model.limits, model.device
    idle = SimpleNamespace(
        device=device,
        dtype=model.dtype,
        scheduler_config=model.scheduler_config,
        limits=limits,
        latent_scale=None,
        latent_shape=model.latent_shape,
        predict=lambda latents, timestep, text: torch.empty_like(latents),
    )
    clock = StageClock(torch.device("cpu"))
    context = ClipContext(Exchange(Topology.single(device), None, clock))

    def peak(frame_count: int) -> int:
        spec = GenerationSpec(
            prompt="",
            frame_count=frame_count,
            width=limits.default_width,
            height=limits.default_height,
            seed=0,
            step_count=_SOLVER_STEPS,
            guidance_scale=limits.default_guidance_scale,
            solver=limits.default_solver,
            scope=limits.default_scope,
        )
        context.begin_generation(Layout.build(clips_of([frame_count]), 0, spec.scope, dtype=model.dtype, device=device))
        text = torch.empty(2, 1, 1, 1, device=device)
        work = partial(
            denoise,
            cast(VideoModel, idle),
            context,
            spec,
            text,
            clock=clock,
            agree=cast(Agreement, lambda **_: Verdict.GO),
            on_step=lambda step, seconds: None,
        )
        return count_peak(work)

    few, many = _SOLVER_FRAMES
    return (peak(many) - peak(few)) / (many - few)


def longest_video(memory: MemoryModel, limits: ModelLimits, budget_bytes: int) -> int:
    """The most frames that a server with equal ranks admits at the model's size and scope; 0: not even one."""
    pixels, scope = _pixels(limits), limits.default_scope

    each = limits.frames_per_latent

    def needed(frame_count: int) -> int:
        latents = FrameGrid(each).latent_count(frame_count)
        clip = each * math.ceil(latents * memory.largest_clip_share)
        context = min(each * latents - clip, scope.local_window_frames + scope.global_frames)
        return max(memory.denoise_bytes(clip, pixels, context_frames=context), memory.decode_bytes(pixels))

    lengths = range(1, limits.max_frame_count + 1, each)
    fitting = bisect_right(lengths, budget_bytes, key=needed)
    return lengths[fitting - 1] if fitting else 0


def run(settings: CapacitySettings) -> list[Report]:
    """A table for each kind of model, a row for each number of ranks."""
    dtype = getattr(torch, settings.dtype)
    reports = []
    plain = [name for name in settings.models if name in FULL_SIZE]
    if plain:
        report = Report(title=f"longest video at native size, in frames, {settings.dtype}, by the memory of each GPU")
        for name in plain:
            solver = count_solver(FULL_SIZE[name].outline(dtype))
            for ranks in settings.ranks:
                say(f"{name} on {ranks} ranks")
                model = FULL_SIZE[name].outline(dtype)
                counted = count(model, ranks)
                row: dict[str, Value] = {"model": name, "size": _size(model.limits), "ranks": ranks}
                report.rows.append(row | _figures(counted, model.limits, solver, settings))
        report.notes.append(f"a rank may use {USABLE_SHARE:.0%} of its GPU; no video is longer than a model's limit")
        reports.append(report)
    joint = [name for name in settings.models if name in FULL_SIZE_3D]
    if joint:
        reports.append(_joint_report(joint, settings, dtype))
    return reports


def _joint_report(names: Sequence[str], settings: CapacitySettings, dtype: torch.dtype) -> Report:
    report = Report(title=f"longest video of the models with 3-D attention, in frames, {settings.dtype}")
    for name in names:
        what = FULL_SIZE_3D[name]
        solver = count_solver(what.outline(dtype))
        rows = []
        for ranks in settings.ranks:
            say(f"{name} on {ranks} ranks")
            model = what.outline(dtype)
            counted, limits = count(model, ranks), model.limits
            for fp8, offload in _WEIGHTS:
                row: dict[str, Value] = {
                    "model": name,
                    "size": _size(limits),
                    "weights": _WEIGHTS[fp8, offload],
                    "ranks": ranks,
                }
                lying = residency(model, what.blocks, fp8=fp8, offload=offload)
                kept = _with_weights(counted, lying, _pixels(limits))
                rows.append(row | _figures(kept, limits, solver, settings, "texts, decoding GB"))
        report.rows += sorted(rows, key=lambda row: list(_WEIGHTS.values()).index(str(row["weights"])))
    report.notes = [
        f"a rank may use {USABLE_SHARE:.0%} of its GPU; 0: the model itself does not fit",
        "weights GB: what lies on the GPU while it denoises",
    ]
    return report


_WEIGHTS = {
    (False, False): "stored",
    (True, False): "fp8",
    (False, True): "stored, offloaded",
    (True, True): "fp8, offloaded",
}
"""How the weights lie, by whether they are in 8 bits and whether blocks are on the host."""


def _with_weights(counted: Counted, lying: Residency, pixels: int) -> Counted:
    """The same where the weights lie otherwise than in one piece."""
    memory = counted.memory
    fixed = memory.fixed_bytes - counted.weights_bytes + lying.denoise
    # Held whatever the length: while a chunk is decoded, or while texts are encoded by encoders that then leave.
    decoding = memory.decode_bytes(pixels) - counted.weights_bytes
    kept = replace(memory, fixed_bytes=fixed, decode_fixed_bytes=max(lying.decode, lying.text - decoding))
    return Counted(lying.denoise, kept)


def _size(limits: ModelLimits) -> str:
    return f"{limits.default_width} × {limits.default_height}"


def _figures(
    counted: Counted, limits: ModelLimits, solver: float, settings: CapacitySettings, least: str = "decoding GB"
) -> dict[str, Value]:
    pixels = _pixels(limits)
    row: dict[str, Value] = {
        "weights GB": counted.weights_bytes / 1e9,
        "fixed GB": counted.memory.fixed_bytes / 1e9,
        "MB a frame": counted.memory.bytes_per_frame_pixel * pixels / 1e6,
        "of the solver": solver / 1e6,
        least: counted.memory.decode_bytes(pixels) / 1e9,
    }
    for size in settings.gigabytes:
        row[f"{size} GB"] = longest_video(counted.memory, limits, int(USABLE_SHARE * size * 1e9))
    return row


def _tensors(model: VideoModel) -> list[torch.Tensor]:
    parts: list[Any] = [part for part in vars(model).values() if isinstance(part, nn.Module)]
    return [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]


def _pixels(limits: ModelLimits) -> int:
    return limits.default_width * limits.default_height
