"""Deals the final latents over the ranks and decodes them in delivery order.

Where the device works by itself, a slice is brought to the host and handed over while the next one is decoded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

from vinf_core.decode.buffers import HostBuffers
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
    buffers: HostBuffers,
    clock: StageClock,
    agree: Agreement,
    sink: FrameSink,
    on_frames: Callable[[int], None],
) -> None:
    """Decode and deliver a video; every rank calls it with the latents of its own clip.

    Args:
        model: decodes; its device is that of ``buffers``.
        latents: ``[f, C, h, w]`` of this rank's clip.
        clips: every rank's clip.
        topology, exchange: this rank's.
        buffers: none in use; when ``agree`` raises, the slices under way stay in them and are lost.
        clock: credits the time.
        agree: called before every round on every rank alike, until every sink has room; raises to end the work on all.
        sink: gets this rank's share of the frames, in order, each in a buffer that is used again.
        on_frames: told how many more frames this rank has handed to the sink.
    """
    frame_count = clips[-1].stop
    with clock.measure(Stage.DECODE):
        dealt = exchange.deal(latents, clips, slice_owners(frame_count, topology.world_size))
    done = 0
    under_way: deque[range] = deque()

    def hand_over(leave: int) -> None:
        """Wait for the oldest slices and send them, until ``leave`` are under way."""
        while len(under_way) > leave:
            frames = under_way.popleft()
            with buffers.oldest() as pictures:
                clock.collect()
                with clock.measure_host(Stage.DELIVER):
                    for frame, picture in zip(frames, pictures, strict=True):
                        sink.send(frame, picture)
            on_frames(len(frames))

    for round_index in range(round_count(frame_count, topology.world_size)):
        # What is under way has been promised room and takes it before the next slice does.
        while not agree(
            sink.wait_for_room(SLICE_FRAMES * (len(under_way) + 1), 0.0 if under_way else AGREEMENT_SECONDS)
        ):
            # Nobody waits with frames in hand.
            hand_over(leave=0)
        frames = slice_of(round_index, topology.rank, frame_count, topology.world_size)
        if frames:
            with clock.measure(Stage.DECODE):
                buffers.fetch(model.decode(dealt[done : done + len(frames)]))
            under_way.append(frames)
            done += len(frames)
        # The first frames leave before anything else is begun: a video starts as early as it can.
        hand_over(leave=buffers.ahead if round_index else 0)
    hand_over(leave=0)
    with clock.measure_host(Stage.DELIVER):
        sink.finish()
        while not agree(sink.wait_for_delivery(AGREEMENT_SECONDS)):
            pass
