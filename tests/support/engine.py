"""The engine around the tiny model, as functions that a rank pool can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tests.support.mesh import meshed
from tests.support.tiny import TEXT_DIM, tiny_model, tiny_unet
from vinf_core.context.clip_context import ClipContext
from vinf_core.context.install import install
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.events import Agreement, Pixels, StageClock
from vinf_core.models.text_to_video import find_framewise_sites, find_temporal_sites
from vinf_core.types import Clip, GenerationSpec, Stage, TemporalScope


def spec(**changes: Any) -> GenerationSpec:
    """A small specification for the tiny model."""
    values: dict[str, Any] = {
        "prompt": "a red ball bouncing over the sea",
        "frame_count": 11,
        "width": 32,
        "height": 32,
        "seed": 5,
        "step_count": 3,
        "guidance_scale": 3.0,
        "scope": TemporalScope(local_window_frames=4, global_frames=3, phase_timestep=500, phase_bias=10.0),
    }
    return GenerationSpec(**(values | changes))


def unet_inputs(frame_count: int, batch: int = 2, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole-video input ``[batch, 4, F, size, size]`` and texts ``[batch, 5, dim]``, float64, the same everywhere."""
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(batch, 5, TEXT_DIM, dtype=torch.float64, generator=generator)
    # Frame by frame, so that a longer video begins like a shorter one.
    frames = [torch.randn(batch, 4, size, size, dtype=torch.float64, generator=generator) for _ in range(frame_count)]
    video = torch.stack(frames, dim=2)
    return video, text


def call_unet(
    topology: Topology,
    groups: Groups,
    counts: list[int],
    scope: TemporalScope,
    timestep: float,
    batch: int = 2,
    *,
    scenes: tuple[range, ...] | None = None,
    skip_negligible: bool = False,
    slice_bytes: int | None = None,
    first: int = 0,
    exchange: Exchange | None = None,
    build: Callable[[], torch.nn.Module] = tiny_unet,
    trained_frame_count: int = 16,
) -> torch.Tensor:
    """One UNet call on this rank's clip: ``[batch, 4, f, h, w]``; of `unet_inputs` from frame ``first`` on."""
    unet = build()
    context = ClipContext(exchange or Exchange(topology, groups.data, StageClock(topology.device)))
    sites = find_temporal_sites(unet, trained_frame_count)
    install(unet, sites, context, find_framewise_sites(unet) if slice_bytes else ())
    if slice_bytes:
        context.slices.frame_bytes = context.slices.row_bytes = slice_bytes
    clips = clips_of(counts)
    layout = Layout.build(
        clips,
        topology.rank,
        scope,
        scenes=scenes,
        skip_negligible=skip_negligible,
        position_count=sites.position_count,
        dtype=torch.float64,
    )
    context.begin_generation(layout)
    context.begin_step(timestep)
    video, text = unet_inputs(first + clips[-1].stop, batch)
    own = video[:, :, [first + frame for frame in layout.clip.frames] or [0]]
    frames = own.shape[2]
    flat = own.transpose(1, 2).flatten(0, 1)
    with torch.inference_mode():
        out = unet(
            flat[:, :, None],
            torch.full((flat.shape[0],), timestep),
            text.repeat_interleave(frames, dim=0),
            return_dict=False,
        )[0]
    return out[:, :, 0].unflatten(0, (batch, frames)).transpose(1, 2)[:, :, : layout.clip.count].clone()


@dataclass
class Recorder:
    """An observer and sink that keep everything."""

    clips: tuple[Clip, ...] = ()
    texts_at_once: int = 0
    stages: list[tuple[Stage, int]] = field(default_factory=list)
    frames: dict[int, Pixels] = field(default_factory=dict)
    delivered: bool = False

    def started(self, generation_id: str, clips: tuple[Clip, ...], texts_at_once: int) -> None:
        self.clips = clips
        self.texts_at_once = texts_at_once

    def progress(self, generation_id: str, stage: Stage, completed_steps: int, step_seconds: float) -> None:
        self.stages.append((stage, completed_steps))

    def send(self, frame_index: int, pixels: Pixels) -> None:
        # A copy: the pixels are only lent.
        self.frames[frame_index] = np.array(pixels)

    def wait_for_room(self, frames: int, timeout: float) -> bool:
        return True

    def finish(self) -> None:
        self.delivered = True

    def wait_for_delivery(self, timeout: float) -> bool:
        return self.delivered

    def abandon(self) -> None:
        self.frames.clear()


def make_generator(
    topology: Topology, groups: Groups, dtype: torch.dtype = torch.float64, *, cfg: int = 1, context: int = 1
) -> tuple[Generator, ControlPlane, Exchange]:
    """A generator around the tiny model, and its way to all other ranks; on a mesh where it is asked for."""
    placed, made = meshed(topology, groups, cfg=cfg, context=context)
    clock = StageClock(topology.device)
    axes = Axes.build(placed, made, clock)
    generator = Generator(tiny_model(dtype), placed, axes, clock)
    return generator, ControlPlane(placed, groups.control), axes.world


def final_latents(
    topology: Topology, groups: Groups, what: GenerationSpec, counts: list[int], dtype: torch.dtype
) -> torch.Tensor:
    """Final latents of this rank's clip."""
    generator, control, _ = make_generator(topology, groups, dtype)
    layout = generator.plan(what, clips_of(counts))
    return generator.latents("g", what, layout, Recorder(), control.agree).clone()


def whole_video(
    topology: Topology, groups: Groups, what: GenerationSpec, agree: Agreement | None = None
) -> dict[int, Pixels]:
    """Frames that this rank decoded, by index."""
    generator, control, _ = make_generator(topology, groups, torch.float32)
    recorder = Recorder()
    generator.generate("g", what, observer=recorder, open_sink=lambda _: recorder, agree=agree or control.agree)
    return recorder.frames
