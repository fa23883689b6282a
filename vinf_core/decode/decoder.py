"""Deals the final latents over the ranks and decodes them in delivery order."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vinf_core.decode.slices import SLICE_FRAMES, round_count, slice_of, slice_owners
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.events import Agreement, FrameSink, StageClock
from vinf_core.models.adapter import VideoModel
from vinf_core.types import Clip, Stage

AGREEMENT_SECONDS = 1.0
"""Longest a rank waits for its sink before it tells the others that it waits."""


@torch.inference_mode()
def decode_video(
    model: VideoModel,
    latents: torch.Tensor,
    clips: tuple[Clip, ...],
    topology: Topology,
    exchange: Exchange,
    *,
    clock: StageClock,
    agree: Agreement,
    sink: FrameSink,
    on_frames: Callable[[int], None],
) -> None:
    """Decode and deliver a video; every rank calls it with the latents of its own clip.

    Args:
        latents: ``[f, C, h, w]`` of this rank's clip.
        agree: called before every round on every rank alike, until every sink has room; raises to end the work on all.
        sink: gets this rank's share of the frames, in order.
        on_frames: told how many more frames this rank has handed to the sink.
    """
    frame_count = clips[-1].stop
    with clock.measure(Stage.DECODE):
        dealt = exchange.deal(latents, clips, slice_owners(frame_count, topology.world_size))
    done = 0
    for round_index in range(round_count(frame_count, topology.world_size)):
        while not agree(sink.wait_for_room(SLICE_FRAMES, AGREEMENT_SECONDS)):
            pass
        frames = slice_of(round_index, topology.rank, frame_count, topology.world_size)
        if not frames:
            continue
        with clock.measure(Stage.DECODE):
            pictures = model.decode(dealt[done : done + len(frames)]).cpu().numpy()
        clock.settle()
        with clock.measure(Stage.DELIVER):
            for frame, picture in zip(frames, pictures, strict=True):
                sink.send(frame, picture)
        done += len(frames)
        on_frames(len(frames))
    with clock.measure(Stage.DELIVER):
        sink.finish()
        while not agree(sink.wait_for_delivery(AGREEMENT_SECONDS)):
            pass
