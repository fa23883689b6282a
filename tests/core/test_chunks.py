"""Which rank decodes which chunk, and what it is given."""

from __future__ import annotations

import pytest

from vinf_core.decode.chunks import ChunkPlan
from vinf_core.decode.slices import SLICE_FRAMES
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.temporal_decoder import ChunkGrid, HandOver

pytestmark = pytest.mark.fast

SLICES = ChunkGrid(SLICE_FRAMES)


def plan(grid: ChunkGrid, latent_count: int, world_size: int, *, first_frame: int = 0, each: int = 1) -> ChunkPlan:
    return ChunkPlan(
        grid=grid,
        frame_grid=FrameGrid(each),
        latent_count=latent_count,
        world_size=world_size,
        first_frame=first_frame,
    )


def indices(made: ChunkPlan) -> list[int]:
    """Chunks in the order in which they are decoded."""
    asked = [made.index_of(turn, rank) for turn in made.rounds for rank in range(made.world_size)]
    return [index for index in asked if index is not None]


@pytest.mark.parametrize("latent_count", [1, 3, 4, 5, 47, 96])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("each", [1, 4])
def test_every_frame_is_decoded_once_in_delivery_order(latent_count: int, world_size: int, each: int) -> None:
    made = plan(SLICES, latent_count, world_size, each=each)
    frames = [frame for index in indices(made) for frame in made.frames(index)]
    assert frames == list(range(each * (latent_count - 1) + 1))
    assert max(len(made.frames(index)) for index in indices(made)) <= made.most_frames
    assert {made.frames(index) for index in indices(made)} == {
        plan(SLICES, latent_count, 1, each=each).frames(index) for index in range(made.chunk_count)
    }, "whatever the number of ranks"


def test_decoding_begins_with_what_the_first_wanted_chunk_takes() -> None:
    around = ChunkGrid(3, before=1, after=2)
    assert plan(around, 20, 2).seen(0) == range(5)
    assert plan(around, 20, 2).seen(2) == range(5, 11)
    assert plan(around, 20, 2).seen(6) == range(17, 20)
    blended = plan(ChunkGrid(3, hand_over=HandOver.BLEND), 20, 2, first_frame=30, each=4)
    assert (blended.first_delivered, blended.first_decoded, blended.rounds) == (2, 1, range(4))
    stateful = plan(ChunkGrid(3, hand_over=HandOver.STATE, memory=5), 20, 2, first_frame=30, each=4)
    assert (stateful.first_delivered, stateful.first_decoded) == (2, 2)
    assert stateful.seen(2) == range(1, 9)
    assert stateful.seen(3) == range(9, 12)
    for grid in (around, blended.grid, stateful.grid):
        done = plan(grid, 20, 2, first_frame=77, each=4)
        assert indices(done) == []
        assert not done.needs(0, single_frames=False)


@pytest.mark.parametrize("grid", [ChunkGrid(2, 1, 1), ChunkGrid(2, hand_over=HandOver.STATE, memory=3)])
@pytest.mark.parametrize("first_frame", [0, 33])
def test_a_rank_is_given_what_its_chunks_take_and_no_more(grid: ChunkGrid, first_frame: int) -> None:
    made = plan(grid, 50, 4, first_frame=first_frame, each=4)
    for rank in range(4):
        own = [index for index in indices(made) if index % 4 == rank]
        samples = made.samples(rank, single_frames=False) if first_frame == 0 else ()
        wanted = {latent for index in own for latent in made.seen(index)}
        wanted |= {latent for sample in samples for latent in sample.seen}
        assert made.needs(rank, single_frames=False) == wanted
    assert len(made.needs(3, single_frames=False)) < 50


@pytest.mark.parametrize("single_frames", [True, False])
@pytest.mark.parametrize("latent_count", [1, 3, 8, 9, 60])
def test_samples_lie_behind_the_first_round(latent_count: int, single_frames: bool) -> None:
    made = plan(ChunkGrid(4, 1, 1), latent_count, 2)
    samples = [sample for rank in (0, 1) for sample in made.samples(rank, single_frames=single_frames)]
    assert bool(samples) == (latent_count > 8)
    assert len(samples) <= 8
    for sample in samples:
        assert 8 <= sample.chunk.start < sample.chunk.stop <= latent_count
        assert set(sample.chunk) <= set(sample.seen)


@pytest.mark.parametrize("ranks", [2, 4])
def test_samples_are_dealt_evenly_whatever_their_stride(ranks: int) -> None:
    stateful = ChunkGrid(4, hand_over=HandOver.STATE, memory=49)
    for grid, single_frames in ((SLICES, True), (ChunkGrid(8, before=12), False), (stateful, False)):
        made = plan(grid, 1600, ranks, each=4)
        counts = [len(made.samples(rank, single_frames=single_frames)) for rank in range(ranks)]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == (4 if grid is stateful else 8)
    for rank in range(ranks):
        for sample in made.samples(rank, single_frames=False):
            assert sample.chunk.start >= 4
            assert sample.seen == range(sample.chunk.start - 1, sample.chunk.stop)


def test_a_round_is_one_chunk_where_each_needs_the_one_before() -> None:
    made = plan(ChunkGrid(3, hand_over=HandOver.STATE, memory=5), 20, 3, first_frame=30, each=4)
    assert made.rounds == range(2, 7)
    for index in made.rounds:
        assert [made.index_of(index, rank) for rank in range(3)] == [
            index if rank == index % 3 else None for rank in range(3)
        ]


@pytest.mark.parametrize(
    "wrong", [{"latents": 0}, {"latents": 2, "before": -1}, {"latents": 2, "memory": 3}, {"latents": 1, "after": -2}]
)
def test_a_grid_that_makes_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"(latents|before|after|memory): -?\d"):
        ChunkGrid(**wrong)
