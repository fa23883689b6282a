"""Which rank decodes what, and when: chunks at fixed multiples of latent frames, dealt in turn.

All ranks decode the chunks that are due next, one each a round, so frames leave in order. Where a chunk needs the state
that the one before was left in, a round is one chunk: the others wait where ranks agree, for one chunk's time. The
chunks do not depend on the number of ranks: a frame is always decoded in the same company, to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from vinf_core.context.pieces import global_frame_indices
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.temporal_decoder import ChunkGrid, HandOver

SAMPLED_FRAMES = 8
"""Frames all over the video that are looked at before one that begins in black is called black."""

SAMPLED_STATES = 4
"""The same where a chunk needs the state before it."""

SAMPLE_WARM_UP = 1
"""Latent frames that bring about such a state for a sample, which needs no exact bits: the first of a video stands for
fewer frames than others, so one must come before."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Latent frames that are decoded by themselves, out of turn."""

    chunk: range
    """Those whose pictures are wanted."""
    seen: range
    """Those that decoding them takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkPlan:
    """The chunks of one video from a frame on, the same on every rank."""

    grid: ChunkGrid
    """Of the decoder."""
    frame_grid: FrameGrid
    latent_count: int
    """Latent frames of the video."""
    world_size: int
    first_frame: int = 0
    """Frames before it are there already."""

    @property
    def chunk_count(self) -> int:
        """Chunks of the video."""
        return -(-self.latent_count // self.grid.latents)

    @property
    def first_delivered(self) -> int:
        """The chunk that holds the first frame that is wanted; `chunk_count` where none is."""
        is_done = self.first_frame >= self.frame_grid.frames_of(range(self.latent_count)).stop
        return self.chunk_count if is_done else self.frame_grid.latent_of(self.first_frame) // self.grid.latents

    @property
    def first_decoded(self) -> int:
        """The first chunk that is decoded: the one before the first delivered, where that one is blended with it."""
        first = self.first_delivered
        is_blended = self.grid.hand_over is HandOver.BLEND and 0 < first < self.chunk_count
        return first - 1 if is_blended else first

    @property
    def chunks_a_round(self) -> int:
        """One each rank, but with STATE one in all."""
        return 1 if self.grid.hand_over is HandOver.STATE else self.world_size

    @property
    def rounds(self) -> range:
        """Rounds in which every rank decodes one chunk at most."""
        return range(self.first_decoded // self.chunks_a_round, -(-self.chunk_count // self.chunks_a_round))

    @property
    def most_frames(self) -> int:
        """Frames of the longest chunk there can be."""
        return self.grid.latents * self.frame_grid.frames_per_latent

    def chunk(self, index: int) -> range:
        """Latent frames of a chunk."""
        start = index * self.grid.latents
        return range(start, min(start + self.grid.latents, self.latent_count))

    def frames(self, index: int) -> range:
        """Frames of a chunk."""
        return self.frame_grid.frames_of(self.chunk(index))

    def seen(self, index: int) -> range:
        """Latent frames that decoding a chunk takes, in its turn."""
        return self._around(index, anew=index == self.first_decoded)

    def index_of(self, round_index: int, rank: int) -> int | None:
        """The chunk that a rank decodes in a round; None: it has none."""
        first = round_index * self.chunks_a_round
        index = first + (rank - first) % self.world_size
        stop = min(first + self.chunks_a_round, self.chunk_count)
        return index if self.first_decoded <= index < stop else None

    def samples(self, rank: int, *, single_frames: bool) -> tuple[Sample, ...]:
        """What a rank looks at behind the first round, where that one shows nothing.

        Args:
            rank: of the group.
            single_frames: whether a frame can be decoded by itself; else its chunk is, or with STATE its latent frame
                after a short warm-up.
        """
        count = self.frame_grid.frames_of(range(self.latent_count)).stop
        begun = self.frames(min(self.chunks_a_round, self.chunk_count) - 1).stop
        is_stateful = self.grid.hand_over is HandOver.STATE
        most = SAMPLED_STATES if is_stateful else SAMPLED_FRAMES
        frames = global_frame_indices(range(begun, count), most) if begun < count else ()
        latents = list(dict.fromkeys(self.frame_grid.latent_of(frame) for frame in frames))
        # Dealt in their order: an even stride of chunks would leave them all to one rank.
        if single_frames or is_stateful:
            before = SAMPLE_WARM_UP if is_stateful else 0
            own = latents[rank :: self.world_size]
            return tuple(Sample(range(each, each + 1), range(max(0, each - before), each + 1)) for each in own)
        chunks = list(dict.fromkeys(latent // self.grid.latents for latent in latents))[rank :: self.world_size]
        return tuple(Sample(self.chunk(index), self._around(index, anew=True)) for index in chunks)

    def needs(self, rank: int, *, single_frames: bool) -> frozenset[int]:
        """Latent frames that a rank has to be given."""
        runs = [
            self.seen(index) for round_index in self.rounds if (index := self.index_of(round_index, rank)) is not None
        ]
        if self.first_frame == 0:
            runs += [sample.seen for sample in self.samples(rank, single_frames=single_frames)]
        return frozenset(latent for run in runs for latent in run)

    def _around(self, index: int, *, anew: bool) -> range:
        """Latent frames for a chunk: with what brings about the state before it where decoding begins ``anew``."""
        chunk = self.chunk(index)
        before = max(self.grid.before, self.grid.memory if anew else 0)
        return range(max(0, chunk.start - before), min(self.latent_count, chunk.stop + self.grid.after))
