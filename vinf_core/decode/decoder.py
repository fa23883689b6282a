"""Deals the final latents over the ranks and decodes them in delivery order.

Where the device works by itself, a slice is brought to the host and handed over while the next one is decoded. A slice
with values that are not finite never leaves, and a video that is all black fails before its first frame leaves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch

from vinf_core.context.pieces import global_frame_indices
from vinf_core.decode.buffers import HostBuffers
from vinf_core.decode.levels import is_black, to_levels
from vinf_core.decode.slices import SLICE_FRAMES, first_round, round_count, slice_of, slice_owners
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.errors import OutputInvalidError
from vinf_core.events import Agreement, FrameSink, StageClock
from vinf_core.models.adapter import VideoModel
from vinf_core.recorder import Lane
from vinf_core.types import Clip, Stage

AGREEMENT_SECONDS = 1.0
"""Longest a rank waits for its sink before it tells the others that it waits."""

SAMPLED_FRAMES = 8
"""Frames all over the video that are looked at before one that begins in black is called black."""


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
    first_frame: int = 0,
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
        first_frame: frames before it need not be delivered, on all ranks alike; the slice that holds it comes whole.

    Raises:
        OutputInvalidError: some rank's pictures are not finite, or the video is all black; on every rank alike.
    """
    frame_count = clips[-1].stop
    owners = slice_owners(frame_count, topology.world_size)
    with clock.measure(Stage.DECODE, "deal"):
        dealt = exchange.deal(latents, clips, owners)
    places = {frame: place for place, frame in enumerate(f for f, owner in enumerate(owners) if owner == topology.rank)}
    under_way: deque[range] = deque()
    is_invalid = False

    def decode(frames: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        with clock.measure(Stage.DECODE, frames=range(frames[0], frames[-1] + 1)):
            start = places[frames[0]]
            return to_levels(model.decode(dealt[start : start + len(frames)]))

    def shows_nothing(levels: Sequence[torch.Tensor]) -> bool:
        """Whether all these pictures are black, and all those of the other ranks."""
        shown = torch.tensor([float(not all(map(is_black, levels)))], device=topology.device)
        return float(exchange.sum(shown)) == 0

    def check_not_black(levels: Sequence[torch.Tensor]) -> None:
        """Look at more of the video when it begins in black; before any frame has left."""
        if not shows_nothing(levels):
            return
        begun = SLICE_FRAMES * topology.world_size
        sample = [f for f in global_frame_indices(range(begun, max(begun, frame_count)), SAMPLED_FRAMES) if f in places]
        if shows_nothing([decode([frame])[0] for frame in sample]):
            raise OutputInvalidError("every frame that was looked at is black")

    def hand_over(leave: int) -> None:
        """Wait for the oldest slices and send them, until ``leave`` are under way."""
        nonlocal is_invalid
        while len(under_way) > leave and not is_invalid:
            frames = under_way.popleft()
            try:
                with buffers.oldest() as pictures:
                    clock.collect()
                    with clock.measure_host(Stage.DELIVER), clock.recorder.host(Lane.DELIVER, "hand over"):
                        for frame, picture in zip(frames, pictures, strict=True):
                            sink.send(frame, picture)
            except OutputInvalidError:
                is_invalid = True  # said at the next agreement, so that every rank hears of it
            else:
                on_frames(len(frames))

    def has_room() -> bool:
        with clock.recorder.host(Lane.WAIT, "room"):
            patience = 0.0 if under_way else AGREEMENT_SECONDS
            return sink.wait_for_room(SLICE_FRAMES * (len(under_way) + 1), patience)

    def is_delivered() -> bool:
        with clock.recorder.host(Lane.WAIT, "delivery"):
            return sink.wait_for_delivery(AGREEMENT_SECONDS)

    first = first_round(first_frame, topology.world_size)
    for round_index in range(first, round_count(frame_count, topology.world_size)):
        # What is under way has been promised room and takes it before the next slice does.
        while not agree(has_room(), invalid=is_invalid):
            # Nobody waits with frames in hand.
            hand_over(leave=0)
        frames = slice_of(round_index, topology.rank, frame_count, topology.world_size)
        levels = []
        if frames and frames.stop > first_frame:
            pictures, finite = decode(frames)
            buffers.fetch(pictures, finite)
            under_way.append(frames)
            levels.append(pictures)
        # Whoever goes on with a video that has begun to leave has looked at its beginning.
        if round_index == 0 and first_frame == 0:
            check_not_black(levels)
        # The first frames leave before anything else is begun: a video starts as early as it can.
        hand_over(leave=buffers.ahead if round_index > first else 0)
    hand_over(leave=0)
    with clock.measure_host(Stage.DELIVER):
        if not is_invalid:
            sink.finish()
        while not agree(is_invalid or is_delivered(), invalid=is_invalid):
            pass
