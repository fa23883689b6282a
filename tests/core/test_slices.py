"""Slices of the decode."""

from __future__ import annotations

import pytest

from vinf_core.decode.slices import SLICE_FRAMES, round_count, slice_of, slice_owners

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("frame_count", [1, 3, 4, 5, 47, 96])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_frame_is_decoded_once_by_its_owner_in_delivery_order(frame_count: int, world_size: int) -> None:
    owners = slice_owners(frame_count, world_size)
    seen = []
    for round_index in range(round_count(frame_count, world_size)):
        for rank in range(world_size):
            frames = slice_of(round_index, rank, frame_count, world_size)
            assert all(owners[f] == rank for f in frames)
            seen += list(frames)
    assert seen == list(range(frame_count))


def test_slices_do_not_depend_on_the_number_of_ranks() -> None:
    def slices(world_size: int) -> set[tuple[int, ...]]:
        rounds = range(round_count(47, world_size))
        return {tuple(slice_of(r, rank, 47, world_size)) for r in rounds for rank in range(world_size)} - {()}

    assert slices(1) == slices(2) == slices(3)
    assert max(len(s) for s in slices(1)) == SLICE_FRAMES
