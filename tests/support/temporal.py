"""Small decoders whose pictures depend on several latent frames, one of each kind, and a model that has one."""

from __future__ import annotations

import dataclasses

import torch

from tests.support.tiny import tiny_limits, tiny_model
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.temporal_decoder import ChunkGrid, HandOver
from vinf_core.models.text_to_video import TextToVideoModel

FRAMES_PER_LATENT = 4

Carried = tuple[torch.Tensor, ...]

MEMORY = 3
"""Latent frames that a state reaches back."""


class FakeDecoder:
    """Frame f of latent frame j shows what latent frames around j are, mixed by f: every mistake shows.

    A latent frame's picture is its first channel, enlarged by eight, and each of its frames a little brighter.
    """

    grid: ChunkGrid

    def __init__(self) -> None:
        self.chunks: list[tuple[range, range, bool]] = []
        """Of every call its chunk, what it saw, and whether it was given a state."""
        self.poisoned = -1
        """A chunk whose pictures hold a NaN."""
        self.is_dark = False

    def decode_chunk(
        self, latents: torch.Tensor, *, chunk: range, seen: range, carried: Carried | None
    ) -> tuple[torch.Tensor, Carried]:
        assert len(latents) == len(seen)
        assert set(chunk) <= set(seen)
        self.chunks.append((chunk, seen, carried is not None))
        pictures, left = self._decode(latents.double(), chunk, seen, carried)
        pictures = pictures.float()
        if chunk.start // self.grid.latents == self.poisoned:
            pictures[-1, 0, 0, 0] = float("nan")
        return pictures - 10 * self.is_dark, left

    def blend(self, pictures: torch.Tensor, carried: Carried) -> torch.Tensor:
        raise AssertionError("nothing to blend")

    def _decode(
        self, latents: torch.Tensor, chunk: range, seen: range, carried: Carried | None
    ) -> tuple[torch.Tensor, Carried]:
        raise NotImplementedError


class AroundDecoder(FakeDecoder):
    """A latent frame's pictures depend on the one before and the one after."""

    grid = ChunkGrid(2, before=1, after=1)

    def _decode(
        self, latents: torch.Tensor, chunk: range, seen: range, carried: Carried | None
    ) -> tuple[torch.Tensor, Carried]:
        assert carried is None

        def at(latent: int) -> torch.Tensor:
            return latents[latent - seen.start] if latent in seen else latents[0] * 0

        mixed = [at(latent) + 0.5 * at(latent - 1) + 0.25 * at(latent + 1) for latent in chunk]
        return pictures_of(mixed, chunk), ()


class BlendDecoder(FakeDecoder):
    """The first two frames of a chunk are half those that the chunk before continues with."""

    grid = ChunkGrid(2, after=1, hand_over=HandOver.BLEND)

    def _decode(
        self, latents: torch.Tensor, chunk: range, seen: range, carried: Carried | None
    ) -> tuple[torch.Tensor, Carried]:
        assert carried is None
        base = latents[: len(chunk)].mean(0)
        pictures = pictures_of([latent + base for latent in latents[: len(chunk)]], chunk)
        if len(seen) == len(chunk):
            return pictures, ()
        tail = pictures_of([latents[-1] - base], range(chunk.stop, chunk.stop + 1))[:2]
        return pictures, (tail, torch.tensor([chunk.stop]))

    def blend(self, pictures: torch.Tensor, carried: Carried) -> torch.Tensor:
        tail, chunk_stop = carried
        assert int(chunk_stop) == self.chunks[-1][0].start
        pictures[: len(tail)] = (pictures[: len(tail)] + tail) / 2
        return pictures


class StateDecoder(FakeDecoder):
    """A latent frame's pictures depend on the ones before it, in order: the newest `MEMORY` are the state."""

    grid = ChunkGrid(2, hand_over=HandOver.STATE, memory=MEMORY)

    def _decode(
        self, latents: torch.Tensor, chunk: range, seen: range, carried: Carried | None
    ) -> tuple[torch.Tensor, Carried]:
        known = list(carried[0]) if carried is not None else []
        mixed = []
        for latent, value in zip(seen, latents, strict=True):
            known = [*known, value][-MEMORY - 1 :]
            if latent in chunk:
                mixed.append(sum((each / 2**age for age, each in enumerate(reversed(known))), start=value * 0))
        return pictures_of(mixed, chunk), (torch.stack(known[-MEMORY:]),)


DECODERS = {"around": AroundDecoder, "blend": BlendDecoder, "state": StateDecoder}


def pictures_of(mixed: list[torch.Tensor], chunk: range) -> torch.Tensor:
    """``[F, H, W, 3]`` of a chunk's mixed latent frames ``[C, h, w]``: frame by frame a little brighter."""
    made = []
    for latent, value in zip(chunk, mixed, strict=True):
        plane = value[:3].permute(1, 2, 0).repeat_interleave(8, 0).repeat_interleave(8, 1)
        frames = FrameGrid(FRAMES_PER_LATENT).frames_of(range(latent, latent + 1))
        made += [0.4 + plane / 20 + 0.01 * place for place in range(len(frames))]
    return torch.stack(made)


def temporal_model(kind: str, dtype: torch.dtype = torch.float32) -> TextToVideoModel:
    """`tiny_model` with a temporal decoder: four frames a latent frame."""
    model = tiny_model(dtype)
    model.limits = dataclasses.replace(tiny_limits(), frames_per_latent=FRAMES_PER_LATENT, default_frame_count=13)
    model.temporal_decoder = DECODERS[kind]()
    return model
