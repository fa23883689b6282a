"""Makes a video in one of the modes, in this process and on one thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.models import twin
from benchmarks.quality.modes import CLIP_FRAMES, Mode, specification
from benchmarks.quality.ranks import Room, RoomExchange
from vinf_core.context.partition import clips_of
from vinf_core.decode.levels import to_levels
from vinf_core.decode.slices import SLICE_FRAMES
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.errors import OutputInvalidError
from vinf_core.events import Boundary, StageClock, Verdict
from vinf_core.models.adapter import VideoModel
from vinf_core.types import Clip, GenerationSpec, Stage

CPU = torch.device("cpu")


class Studio:
    """A model, and the ranks around it."""

    def __init__(self, model: VideoModel) -> None:
        """Keep a model on the CPU as it was loaded; every rank works with a twin of it."""
        self._model = model
        self._alone = self._rank(Topology.single(), Exchange)
        self._rooms: dict[tuple[int, bool], tuple[Room, list[Generator]]] = {}

    def film(self, mode: Mode, *, prompt: str, seed: int, frames: int, steps: int) -> NDArray[np.uint8]:
        """Make a video: ``[F, H, W, 3]``, RGB.

        Modes whose norms span the video do not depend on the number of ranks, so one rank makes them.
        """
        spec = specification(mode, self._model.limits, prompt=prompt, seed=seed, frames=frames, steps=steps)
        if mode.shares_norms:
            latents = _denoise(self._alone, spec, (Clip(0, frames),))
        else:
            counts = [min(CLIP_FRAMES, frames - start) for start in range(0, frames, CLIP_FRAMES)]
            latents = self.in_ranks(spec, counts, shares_sums=False)
        slices = [to_levels(self._model.decode(part))[0] for part in torch.split(latents, SLICE_FRAMES)]
        return torch.cat(slices).numpy()

    def in_ranks(self, spec: GenerationSpec, counts: list[int], *, shares_sums: bool) -> torch.Tensor:
        """Denoise in ranks of one process: ``[F, C, h, w]``.

        Args:
            spec: what to make.
            counts: frames of each rank's clip.
            shares_sums: see `RoomExchange`.
        """
        clips = clips_of(counts)
        key = len(clips), shares_sums
        if key not in self._rooms:
            self._rooms[key] = self._open(*key)
        room, generators = self._rooms[key]
        return torch.cat(room.run([partial(_denoise, generator, spec, clips) for generator in generators]))

    def _open(self, ranks: int, shares_sums: bool) -> tuple[Room, list[Generator]]:
        room = Room(ranks)

        def exchange(topology: Topology, _: None, clock: StageClock) -> Exchange:
            return RoomExchange(room, topology, clock, shares_sums=shares_sums)

        places = [Topology(rank=rank, world_size=ranks, device=CPU) for rank in range(ranks)]
        return room, [self._rank(place, exchange) for place in places]

    def _rank(self, topology: Topology, exchange: Callable[[Topology, None, StageClock], Exchange]) -> Generator:
        clock = StageClock(CPU)
        return Generator(twin(self._model), topology, exchange(topology, None, clock), clock)


class _Nobody:
    """An observer that does not look."""

    def started(self, generation_id: str, clips: tuple[Clip, ...], texts_at_once: int) -> None: ...

    def progress(self, generation_id: str, stage: Stage, completed_steps: int, step_seconds: float) -> None: ...


def _denoise(generator: Generator, spec: GenerationSpec, clips: tuple[Clip, ...]) -> torch.Tensor:
    return generator.latents("quality", spec, generator.plan(spec, clips), _Nobody(), _agree)


def _agree(
    ready: bool = True, *, save: bool = False, invalid: bool = False, boundary: Boundary = Boundary.DECODE
) -> Verdict:
    """Every rank goes on, whatever the others do: they meet in their exchanges."""
    if invalid:
        raise OutputInvalidError("the model produced values that are not finite")
    return Verdict.GO
