"""The engine as the benchmarks drive it: the one file here that knows how its parts fit together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.install import install
from vinf_core.context.layout import Layout
from vinf_core.context.partition import partition
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.engine.probe import default_budget, measure_memory
from vinf_core.events import StageClock
from vinf_core.models.adapter import VideoModel
from vinf_core.types import Clip, GenerationSpec, Stage, TemporalScope

TIMESTEP = 500.0
"""Of the calls that are measured; their cost does not depend on it."""

ALONE = Groups(control=None, data=None)
"""The groups of a world of one."""


@dataclass(frozen=True, slots=True)
class CountedSteps:
    """What a rank did in some denoising steps."""

    seconds: list[float]
    """Of each step: CPU time of the engine's thread, which waits for nobody; on a GPU, the time that passed."""

    clock_calls: dict[str, float]
    """Calls of the stage clock's methods, in one step."""


class SteppingRank:
    """A rank that denoises as it does in a generation, with everything that is measured on the way."""

    def __init__(self, model: VideoModel, topology: Topology, groups: Groups = ALONE) -> None:
        self.clock = StageClock(topology.device)
        self.exchange = Exchange(topology, groups.data, self.clock)
        self.control = ControlPlane(topology, groups.control)
        self.generator = Generator(model, topology, self.exchange, self.clock)
        self._limits = model.limits

    def count(self, frames: int, steps: int) -> CountedSteps:
        """Denoise a guided video for one step that does not count and ``steps`` that do."""
        limits = self._limits
        spec = GenerationSpec(
            prompt="a red ball",
            frame_count=frames,
            width=limits.default_width,
            height=limits.default_height,
            seed=1,
            step_count=steps + 1,
            guidance_scale=limits.default_guidance_scale,
            scope=limits.default_scope,
        )
        clock = time.thread_time if self.generator.topology.device.type == "cpu" else time.perf_counter
        observer = _StepObserver(clock, count_calls(self.clock, ("measure", "measure_host", "settle", "collect")))
        self.generator.latents("counted", spec, self.generator.plan(spec), observer, self.control.agree)
        return observer.counted()


class _StepObserver:
    """Reads a counter whenever a step has ended."""

    def __init__(self, clock: Callable[[], float], calls: Counter[str]) -> None:
        self._clock = clock
        self._calls = calls
        self._seen: list[tuple[float, Counter[str]]] = []

    def started(self, generation_id: str, clips: tuple[Clip, ...], texts_at_once: int) -> None: ...

    def progress(self, generation_id: str, stage: Stage, completed_steps: int, step_seconds: float) -> None:
        if step_seconds:
            self._seen.append((self._clock(), self._calls.copy()))

    def counted(self) -> CountedSteps:
        """All but the first step, in which memory and caches are set up."""
        times = [moment for moment, _ in self._seen]
        total, steps = self._seen[-1][1] - self._seen[0][1], len(times) - 1
        return CountedSteps(
            [after - before for before, after in pairwise(times)],
            {name: count / steps for name, count in total.items()},
        )


def count_calls(target: object, names: Iterable[str]) -> Counter[str]:
    """Count the calls of an object's methods from now on, by name."""
    calls: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., object]:
        method = getattr(target, name)

        def call(*args: object, **kwargs: object) -> object:
            calls[name] += 1
            return method(*args, **kwargs)

        return call

    for name in names:
        setattr(target, name, counting(name))
    return calls


class Subject:
    """A rank's engine around a model, without the denoising loop: one call of `step` is one pass of the denoiser."""

    def __init__(self, model: VideoModel, topology: Topology, groups: Groups = ALONE) -> None:
        self.clock = StageClock(topology.device)
        self.exchange = Exchange(topology, groups.data, self.clock)
        self.control = ControlPlane(topology, groups.control)
        self._model = model
        self._topology = topology
        self._context = ClipContext(self.exchange)
        install(model.unet, model.temporal_sites, self._context, model.framewise_sites)

    def begin(self, frames: int, scope: TemporalScope) -> slice:
        """Plan a video of ``frames``, latent ones where that is not the same; return which of them are this rank's."""
        sites = self._model.temporal_sites
        layout = Layout.build(
            partition(frames, [1] * self._topology.world_size),
            self._topology.rank,
            scope,
            position_count=sites.position_count,
            joint=bool(sites.joint_attentions),
            dtype=self._model.dtype,
            device=self._topology.device,
        )
        self._context.begin_generation(layout)
        return slice(layout.clip.start, layout.clip.stop)

    @torch.inference_mode()
    def step(self, latents: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Run the denoiser on this rank's clip.

        Args:
            latents: ``[B * f, C, h, w]``, the clip once for every text.
            text: ``[B, tokens, dim]``.

        Returns:
            ``[B * f, C, h, w]``; on a GPU it may still be computing.
        """
        self._context.begin_step(TIMESTEP)
        with self.clock.measure(Stage.DENOISE):
            return self._model.predict(latents, TIMESTEP, text[:, None])


def frames_received(
    frames: int, ranks: int, scope: TemporalScope, *, skip_negligible: bool = False
) -> tuple[int, int, int]:
    """Frames that a rank in the middle receives in one exchange: attention in either phase, temporal convolution."""
    topology = Topology(rank=ranks // 2, world_size=ranks, device=torch.device("cpu"))
    layout = _layout(frames, topology, scope, torch.float32, skip_negligible)
    plans = (layout.global_phase.frames, layout.local_phase.frames, layout.convolution_plan)
    above, below, convolution = (sum(count for _, count in plan.receives) for plan in plans)
    return above, below, convolution


def predicted_peak_bytes(model: VideoModel, frames: int, texts: int) -> int | None:
    """Most bytes that the engine expects a process to hold in a step; None where the system does not tell."""
    topology = Topology.single(model.device)
    clock = StageClock(model.device)
    generator = Generator(model, topology, Exchange(topology, None, clock), clock)
    memory = measure_memory(
        generator, ControlPlane(topology, None), budget_bytes=default_budget(model.device, 1), largest_clip_share=1.0
    )
    if memory is None:
        return None
    return memory.denoise_bytes(frames, model.limits.default_width * model.limits.default_height, texts)


def _layout(
    frames: int, topology: Topology, scope: TemporalScope, dtype: torch.dtype, skip_negligible: bool = False
) -> Layout:
    clips = partition(frames, [1] * topology.world_size)
    return Layout.build(
        clips, topology.rank, scope, skip_negligible=skip_negligible, dtype=dtype, device=topology.device
    )
