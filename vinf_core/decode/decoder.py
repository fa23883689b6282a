"""Deals the final latents over the ranks and decodes them in delivery order.

Where the device works by itself, a chunk is brought to the host and handed over while the next one is decoded. A chunk
with values that are not finite never leaves, and a video that is all black fails before its first frame leaves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch

from vinf_core.decode.buffers import HostBuffers
from vinf_core.decode.chunks import ChunkPlan
from vinf_core.decode.levels import is_black
from vinf_core.decode.relay import ChunkRelay
from vinf_core.decode.slices import decoder_of
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.errors import OutputInvalidError
from vinf_core.events import Agreement, FrameSink, StageClock
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.adapter import VideoModel
from vinf_core.recorder import Lane
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
    frame_grid: FrameGrid | None = None,
    first_frame: int = 0,
) -> None:
    """Decode and deliver a video; every rank calls it with the latents of its own clip.

    Args:
        model: decodes; its device is that of ``buffers``.
        latents: ``[f, C, h, w]`` of this rank's clip.
        clips: every rank's clip, in latent frames.
        topology, exchange: this rank's.
        buffers: none in use; when ``agree`` raises, the chunks under way stay in them and are lost.
        clock: credits the time.
        agree: called before every round on every rank alike, until every sink has room; raises to end the work on all.
        sink: gets this rank's share of the frames, in order, each in a buffer that is used again.
        on_frames: told how many more frames this rank has handed to the sink.
        frame_grid: which frames share a latent frame; None: none do.
        first_frame: frames before it need not be delivered, on all ranks alike; the chunk that holds it comes whole.

    Raises:
        OutputInvalidError: some rank's pictures are not finite, or the video is all black; on every rank alike.
    """
    decoder = decoder_of(model)
    plan = ChunkPlan(
        grid=decoder.grid,
        frame_grid=frame_grid or FrameGrid(),
        latent_count=clips[-1].stop,
        world_size=topology.world_size,
        first_frame=first_frame,
    )
    single_frames = model.temporal_decoder is None
    relay = ChunkRelay(decoder, plan, topology, exchange, clock, single_frames=single_frames)
    with clock.measure(Stage.DECODE, "deal"):
        relay.deal(latents, clips)
    under_way: deque[range] = deque()
    is_invalid = False

    def shows_nothing(levels: Sequence[torch.Tensor]) -> bool:
        """Whether all these pictures are black, and all those of the other ranks."""
        shown = torch.tensor([float(not all(map(is_black, levels)))], device=topology.device)
        return float(exchange.sum(shown)) == 0

    def check_not_black(levels: Sequence[torch.Tensor]) -> None:
        """Look at more of the video when it begins in black; before any frame has left."""
        if not shows_nothing(levels):
            return
        samples = plan.samples(topology.rank, single_frames=single_frames)
        if shows_nothing([relay.decode_sample(sample) for sample in samples]):
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
            return sink.wait_for_room(plan.most_frames * (len(under_way) + 1), patience)

    def is_delivered() -> bool:
        with clock.recorder.host(Lane.WAIT, "delivery"):
            return sink.wait_for_delivery(AGREEMENT_SECONDS)

    for round_index in plan.rounds:
        # What is under way has been promised room and takes it before the next chunk does.
        while not agree(has_room(), invalid=is_invalid):
            # Nobody waits with frames in hand.
            hand_over(leave=0)
        decoded = relay.decode_round(round_index)
        index = plan.index_of(round_index, topology.rank)
        levels = []
        if decoded is not None and index is not None and index >= plan.first_delivered:
            pictures, finite = decoded
            buffers.fetch(pictures, finite)
            under_way.append(plan.frames(index))
            levels.append(pictures)
        # Whoever goes on with a video that has begun to leave has looked at its beginning.
        if round_index == 0 and first_frame == 0:
            check_not_black(levels)
        # The first frames leave before anything else is begun: a video starts as early as it can. And whoever has
        # nothing to decode has time for them now.
        hand_over(leave=buffers.ahead if decoded is not None and round_index > plan.rounds.start else 0)
    hand_over(leave=0)
    if not is_invalid:
        sink.finish()
    # Waiting for the server is no work of this stage: a slow disk does not make a device busy.
    while not agree(is_invalid or is_delivered(), invalid=is_invalid):
        pass
