"""One rank's chunks of a video, decoded round by round; what a chunk leaves for the next one goes from rank to rank.

Within a round hand-overs go from lower ranks to higher ones only, and what the last chunk of a round leaves for the
first one of the next waits for that round. So whoever hands over or waits has agreed to that very round with its peer:
a generation that ends between two rounds leaves nobody waiting. And nobody waits in a receive for longer than a chunk
takes: chunks of a round are decoded at the same time, or there is only one.
"""

from __future__ import annotations

import torch

from vinf_core.decode.chunks import ChunkPlan, Sample
from vinf_core.decode.levels import to_levels
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.models.temporal_decoder import HandOver, TemporalDecoder
from vinf_core.stage_clock import Measured, StageClock
from vinf_core.types import Clip, Stage


class ChunkRelay:
    """Decodes this rank's chunks; every rank calls `decode_round` for every round of the plan, one after the other."""

    def __init__(
        self,
        decoder: TemporalDecoder,
        plan: ChunkPlan,
        topology: Topology,
        exchange: Exchange,
        clock: StageClock,
        *,
        single_frames: bool,
    ) -> None:
        """Make one.

        Args:
            decoder: the model's.
            plan: of the video, the same on every rank.
            topology, exchange: this rank's.
            clock: credits the time.
            single_frames: see `ChunkPlan.samples`.
        """
        self._decoder = decoder
        self._plan = plan
        self._rank = topology.rank
        self._world_size = topology.world_size
        self._exchange = exchange
        self._clock = clock
        self._single_frames = single_frames
        self._latents = torch.empty(0)
        self._places: dict[int, int] = {}
        self._outgoing: tuple[torch.Tensor, ...] = ()
        """On the rank that decoded the last chunk of a round: what it left, for the next round."""
        self._incoming: tuple[torch.Tensor, ...] = ()
        """On the rank that decodes the first chunk of this round: what was left for it."""

    def deal(self, own: torch.Tensor, clips: tuple[Clip, ...]) -> None:
        """Get the latents that this rank's chunks take; every rank calls it.

        Args:
            own: ``[f, C, h, w]`` of this rank's clip.
            clips: every rank's clip, in latent frames.
        """
        needs = tuple(self._plan.needs(rank, single_frames=self._single_frames) for rank in range(self._world_size))
        self._latents = self._exchange.deal(own, clips, needs)
        self._places = {latent: place for place, latent in enumerate(sorted(needs[self._rank]))}

    def decode_round(self, round_index: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Decode this rank's chunk of a round, if it has one: the pictures as `to_levels` makes them."""
        self._hand_over_between_rounds(round_index)
        index = self._plan.index_of(round_index, self._rank)
        if index is None:
            return None
        hand_over = self._decoder.grid.hand_over
        carried = self._take(index) if hand_over is HandOver.STATE else None
        with self._measure(self._plan.chunk(index)):
            pictures, left = self._decode(self._plan.chunk(index), self._plan.seen(index), carried)
            levels = to_levels(pictures) if hand_over is not HandOver.BLEND else None
        self._leave(index, left)
        if levels is None:
            carried = self._take(index)
            with self._clock.measure(Stage.DECODE, "blend"):
                levels = to_levels(pictures if carried is None else self._decoder.blend(pictures, carried))
        return levels

    def decode_sample(self, sample: Sample) -> torch.Tensor:
        """Decode out of turn, without any other rank and unblended: the pictures' levels."""
        with self._measure(sample.chunk):
            return to_levels(self._decode(sample.chunk, sample.seen, None)[0])[0]

    def _measure(self, chunk: range) -> Measured:
        return self._clock.measure(Stage.DECODE, frames=self._plan.frame_grid.frames_of(chunk))

    def _decode(
        self, chunk: range, seen: range, carried: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        start = self._places[seen.start]
        latents = self._latents[start : start + len(seen)]
        pictures, left = self._decoder.decode_chunk(latents, chunk=chunk, seen=seen, carried=carried)
        expected = len(self._plan.frame_grid.frames_of(chunk))
        if pictures.shape[0] != expected:
            raise ValueError(
                f"decode_chunk: {pictures.shape[0]} pictures of latent frames {chunk.start} to {chunk.stop - 1} "
                f"are not the {expected} that they stand for"
            )
        return pictures, left

    def _take(self, index: int) -> tuple[torch.Tensor, ...] | None:
        """What the chunk before left; None: decoding begins with this one."""
        if index == self._plan.first_decoded:
            return None
        if index % self._plan.chunks_a_round == 0:
            # Kept by nobody else while the chunk is decoded: states of large pictures are large.
            left, self._incoming = self._incoming, ()
            return left
        return self._exchange.take_over(self._rank - 1)

    def _leave(self, index: int, left: tuple[torch.Tensor, ...]) -> None:
        """See that the next chunk, if there is any, gets what this one left."""
        if self._decoder.grid.hand_over is HandOver.NONE or index + 1 == self._plan.chunk_count:
            return
        if (index + 1) % self._plan.chunks_a_round == 0:
            self._outgoing = left
        else:
            self._exchange.pass_on(left, self._rank + 1)

    def _hand_over_between_rounds(self, round_index: int) -> None:
        """From the rank of a round's last chunk to that of the next one's first."""
        first = round_index * self._plan.chunks_a_round
        is_wanted = self._plan.first_decoded < first < self._plan.chunk_count
        if self._decoder.grid.hand_over is HandOver.NONE or not is_wanted:
            return
        source, target = (first - 1) % self._world_size, first % self._world_size
        left, self._outgoing = self._outgoing, ()
        if source == target:
            self._incoming = left
        elif self._rank == source:
            self._exchange.pass_on(left, target)
        elif self._rank == target:
            self._incoming = self._exchange.take_over(source)
