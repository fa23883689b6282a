"""What the frames of a rank are told: prompts, encoded once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from vinf_core.diffusion.timeline import ClipTimeline
from vinf_core.distributed.exchange import Exchange
from vinf_core.engine.prompt_cache import PromptCache
from vinf_core.models.adapter import VideoModel
from vinf_core.types import GenerationSpec


class Texts:
    """Encodes texts on every rank, or on rank 0 for all of them, as the model wants it."""

    def __init__(self, model: VideoModel, world: Exchange) -> None:
        """Encode nothing yet.

        Args:
            model: which encodes.
            world: all ranks, which call each method at the same place.
        """
        self._model = model
        self._world = world
        self.cache = PromptCache(model.encode_text)
        """Embeddings kept across generations; other threads may read its counts."""
        self._nothing: torch.Tensor | None = None
        """What a pass is tried with; not in the cache, whose counts are of prompts that users asked for."""

    def encode(self, spec: GenerationSpec, frames: Sequence[int]) -> torch.Tensor:
        """Encode what some frames see: ``[B, f or 1, rows, dim]`` as `denoise` takes it.

        Args:
            spec: what is generated, in latent frames.
            frames: latent frames, in any order. None at all see what frame 0 sees: an empty clip denoises it idly.
        """
        told = self._with_prefix(spec)
        timeline = ClipTimeline.build(told.prompt, told.segments, frames or range(1))
        # Where one rank encodes for all, all are given the same: what the whole video takes.
        texts = [told.prompt, *(each.prompt for each in told.segments)]
        prompts = texts if self._model.text_on_one_rank else timeline.prompts
        # Each prompt once, the negative one too, which may be one of the others.
        wanted = dict.fromkeys([*prompts, told.negative_prompt] if told.guided else prompts)
        embeddings = dict(zip(wanted, self._on_one_rank(lambda: self.cache.embed(wanted)), strict=True))
        return timeline.embed(
            [embeddings[prompt] for prompt in timeline.prompts],
            embeddings[told.negative_prompt] if told.guided else None,
        )

    def nothing(self) -> torch.Tensor:
        """An empty prompt, ``[1, 1, rows, dim]``; encoded in the first call and kept."""
        if self._nothing is None:
            self._nothing = self._on_one_rank(lambda: [self._model.encode_text([""])])[0][None]
        return self._nothing

    def probe(self) -> None:
        """Encode a text where texts are encoded, and keep nothing of it."""
        if not self._model.text_on_one_rank or self._world.topology.rank == 0:
            self._model.encode_text([""])

    def _with_prefix(self, spec: GenerationSpec) -> GenerationSpec:
        """The same with prompts that begin as they did in training."""
        prefix = self._model.prompt_prefix

        def prefixed(prompt: str) -> str:
            return prompt if prompt.startswith(prefix.strip()) else prefix + prompt

        segments = tuple(replace(segment, prompt=prefixed(segment.prompt)) for segment in spec.segments)
        return replace(spec, prompt=prefixed(spec.prompt), segments=segments) if prefix else spec

    def _on_one_rank(self, encode: Callable[[], Sequence[torch.Tensor]]) -> Sequence[torch.Tensor]:
        """What ``encode`` returns: each rank's own, or that of rank 0 on all of them where it encodes for all."""
        if not self._model.text_on_one_rank:
            return encode()
        return self._world.share(encode() if self._world.topology.rank == 0 else None)
