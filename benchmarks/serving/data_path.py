"""The way of a video from final latents to frames on their way to the front, and that way with one thing changed.

Everything here is what a rank runs: `decode_video` with the model's chunks, host buffers and the `FrameSender`. Two
things stand in for others: the VAE is EasyAnimate's with few channels and random weights, and at the other end of the
stream a thread of this process puts every message into bytes, as gRPC would, and drops them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import torch
from diffusers import AutoencoderKLMagvit
from torch import nn

from benchmarks.heap import HeapWatch
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.decode.buffers import HostBuffers
from vinf_core.decode.decoder import decode_video
from vinf_core.decode.levels import to_levels
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.events import Agreement, Pixels, StageClock, Verdict
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.adapter import VideoModel
from vinf_core.models.magvit import CHUNK_LATENTS, MagvitDecoder
from vinf_core.models.temporal_decoder import ChunkGrid, TemporalDecoder
from vinf_core.types import Clip
from vinf_server.rank.frames import FrameSender
from vinf_server.rank.link import Link

FRAME_GRID = FrameGrid(4)

LATENT_CHANNELS = 4

_TINY = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (4, 4, 4, 4),
    "layers_per_block": 0,
    "norm_num_groups": 2,
}
"""One residual block a level: enough for 49 frames of 1024 x 1024 in seconds."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one video took."""

    seconds: float
    first_frame_s: float
    """Until the first frame was handed to the sender."""
    frames: int


def tiny_vae(device: torch.device, dtype: torch.dtype) -> AutoencoderKLMagvit:
    """EasyAnimate's VAE with few channels and random weights, the same every time."""
    torch.manual_seed(0)
    vae = AutoencoderKLMagvit(**_TINY)
    # Not `vae.to(...)`: diffusers' own warns about a conversion that is meant here.
    return cast(AutoencoderKLMagvit, nn.Module.to(vae, device, dtype).eval().requires_grad_(False))


class DataPath:
    """Delivers one video again and again; each keyword of `deliver` changes one thing about the way it takes."""

    def __init__(self, vae: AutoencoderKLMagvit, frame_count: int, size: tuple[int, int]) -> None:
        """Make random latents.

        Args:
            vae: on its device, in its dtype.
            frame_count: 4 k + 1.
            size: width and height, pixels.
        """
        self._vae = vae
        self.device = vae.device
        self._count = FRAME_GRID.latent_count(frame_count)
        width, height = size
        shape = (self._count, LATENT_CHANNELS, height // 8, width // 8)
        self._latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        self.heap = HeapWatch(self.device)
        """Looked at whenever a frame is handed over."""

    def deliver(
        self,
        *,
        streaming: bool = True,
        buffers: bool = True,
        conversion: bool = True,
        overlap: bool | None = None,
        sending: bool = True,
    ) -> Delivered:
        """Decode and deliver the video.

        Args:
            streaming: decode chunk by chunk; else everything at once with the stock VAE, and deliver that in chunks.
            buffers: bring chunks to the host through buffers that are used again; else through new ones each.
            conversion: make 8-bit levels of a chunk at a time; else of one frame after the other.
            overlap: hand a chunk over while the next one is decoded; else before that; None: as the device does it.
            sending: let a thread send frames; else wait until it has taken each frame.
        """
        decoder: TemporalDecoder = MagvitDecoder(self._vae)
        if not streaming:
            decoder = _AtOnce(self._vae, self._latents)
        ahead = None if overlap is None else int(overlap)
        chunk_frames = decoder.grid.latents * FRAME_GRID.frames_per_latent
        host = (HostBuffers if buffers else _NewBuffers)(self.device, ahead, frames=chunk_frames)
        topology, clock = Topology.single(self.device), StageClock(self.device)
        sink = _Sender(self.heap, is_waited_for=not sending)
        began = time.perf_counter()
        with _converted_by(to_levels if conversion else levels_one_by_one):
            decode_video(
                cast(VideoModel, SimpleNamespace(device=self.device, temporal_decoder=decoder)),
                self._latents,
                (Clip(0, self._count),),
                topology,
                Exchange(topology, None, clock),
                buffers=host,
                clock=clock,
                agree=cast(Agreement, lambda go=True, **_: Verdict.GO if go else Verdict.WAIT),
                sink=sink,
                on_frames=lambda count: None,
                frame_grid=FRAME_GRID,
            )
        ended = time.perf_counter()
        self.heap.look()
        return Delivered(ended - began, sink.first_at - began, sink.sent)


class _AtOnce:
    """The stock VAE's own `decode` for the whole video, whose pictures are then given chunk by chunk.

    They are kept as the VAE leaves them, and made floats for each chunk: what the least memory is kept by.
    """

    grid = ChunkGrid(CHUNK_LATENTS)

    def __init__(self, vae: AutoencoderKLMagvit, latents: torch.Tensor) -> None:
        self._vae = vae
        self._latents = latents
        self._pictures: torch.Tensor | None = None

    @torch.inference_mode()
    def decode_chunk(
        self, latents: torch.Tensor, *, chunk: range, seen: range, carried: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The pictures of a chunk; the first call decodes them all."""
        if self._pictures is None:
            z = 1 / self._vae.config.scaling_factor * self._latents.to(self._vae.dtype)
            self._pictures = self._vae.decode(z.transpose(0, 1)[None], return_dict=False)[0][0]
        frames = FRAME_GRID.frames_of(chunk)
        wanted = self._pictures[:, frames.start : frames.stop].permute(1, 2, 3, 0)
        return wanted.float() * 0.5 + 0.5, ()

    def blend(self, pictures: torch.Tensor, carried: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Nothing to blend."""
        return pictures


class _NewBuffers(HostBuffers):
    """Host buffers of its own for every chunk."""

    def __init__(self, device: torch.device, ahead: int | None = None, *, frames: int) -> None:
        super().__init__(device, ahead, frames=frames)
        self._make_one = partial(HostBuffers, device, 0)
        self._line: deque[HostBuffers] = deque()

    def __len__(self) -> int:
        return len(self._line)

    def fetch(self, pictures: torch.Tensor, finite: torch.Tensor) -> None:
        """See `HostBuffers.fetch`."""
        own = self._make_one(frames=pictures.shape[0])
        own.fetch(pictures, finite)
        self._line.append(own)

    @contextmanager
    def oldest(self) -> Iterator[Pixels]:
        """See `HostBuffers.oldest`."""
        with self._line.popleft().oldest() as pixels:
            yield pixels


class _Sender(FrameSender):
    """The rank's sender of frames, at the end of whose stream messages become bytes and are dropped."""

    def __init__(self, heap: HeapWatch, *, is_waited_for: bool) -> None:
        self.sent = 0
        self.first_at = 0.0
        self._heap = heap
        self._is_waited_for = is_waited_for
        link = SimpleNamespace(stub=SimpleNamespace(SendFrames=_swallow), metadata=())
        super().__init__(cast(Link, link), 0, "measured")

    def send(self, frame_index: int, pixels: Pixels) -> None:
        """See `FrameSender.send`."""
        super().send(frame_index, pixels)
        self.first_at = self.first_at or time.perf_counter()
        self.sent += 1
        self._heap.look()
        if self._is_waited_for:
            with self._changed:
                self._changed.wait_for(lambda: not self._frames)


def _swallow(messages: Iterator[pb.SendFramesRequest], metadata: Any) -> pb.SendFramesResponse:
    stored = 0
    for message in messages:
        message.SerializeToString()
        stored = max(stored, message.complete.frame_count)
    return pb.SendFramesResponse(stored_frame_count=stored)


def levels_one_by_one(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`to_levels` for one picture after the other."""
    levels = torch.empty_like(pictures, dtype=torch.uint8)
    finite = torch.ones((), dtype=torch.bool, device=pictures.device)
    for place, picture in enumerate(pictures):
        levels[place], is_finite = to_levels(picture)
        finite &= is_finite
    return levels, finite


@contextmanager
def _converted_by(convert: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> Iterator[None]:
    with patch("vinf_core.decode.relay.to_levels", convert):
        yield
