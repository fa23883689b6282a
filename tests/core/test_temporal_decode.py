"""Decoders whose chunks depend on each other, on 1 to 4 real ranks: the same frames wherever they are decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.engine import Recorder
from tests.support.ranks import RankPool
from tests.support.temporal import DECODERS, FRAMES_PER_LATENT, MEMORY, FakeDecoder
from vinf_core.context.partition import partition
from vinf_core.decode.buffers import HostBuffers
from vinf_core.decode.decoder import decode_video
from vinf_core.decode.probe import probe_chunk
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.errors import GenerationCancelledError, OutputInvalidError
from vinf_core.events import Boundary, Pixels, StageClock, StopWish, Verdict
from vinf_core.latent_frames import FrameGrid

LATENTS = 13
GRID = FrameGrid(FRAMES_PER_LATENT)
FRAMES = FRAMES_PER_LATENT * (LATENTS - 1) + 1
ALONE = (Topology.single(), Groups(control=None, data=None))


class Model:
    """As much of a model as decoding takes."""

    def __init__(self, decoder: FakeDecoder) -> None:
        self.temporal_decoder = decoder


class Sink(Recorder):
    """Remembers the order of the frames and where in memory they were."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[int] = []
        self.places: set[int] = set()
        self.most_wanted = 0

    def wait_for_room(self, frames: int, timeout: float) -> bool:
        self.most_wanted = max(self.most_wanted, frames)
        return True

    def send(self, frame_index: int, pixels: Pixels) -> None:
        super().send(frame_index, pixels)
        self.order.append(frame_index)
        self.places.add(pixels.__array_interface__["data"][0])


def latents_of(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 2, 3, generator=torch.Generator().manual_seed(7))


def decoded(
    topology: Topology,
    groups: Groups,
    kind: str,
    *,
    ahead: int = 0,
    first_frame: int = 0,
    latent_count: int = LATENTS,
    stop_at: int = 0,
    changes: dict[str, Any] | None = None,
) -> tuple[Sink, FakeDecoder, str]:
    """Decode a video; cancelled at the agreement of number ``stop_at``. The sink, the decoder, how it ended."""
    decoder = DECODERS[kind]()
    for name, value in (changes or {}).items():
        setattr(decoder, name, value)
    clock, control = StageClock(topology.device), ControlPlane(topology, groups.control)
    clips = partition(latent_count, [1] * topology.world_size)
    sink, ended, votes = Sink(), "", 0

    def agree(
        ready: bool = True, *, save: bool = False, invalid: bool = False, boundary: Boundary = Boundary.DECODE
    ) -> Verdict:
        nonlocal votes
        votes += 1
        stop = StopWish.CANCEL if votes == stop_at else StopWish.NONE
        return control.agree(ready, invalid=invalid, boundary=boundary, stop=stop)

    try:
        decode_video(
            Model(decoder),
            latents_of(latent_count)[clips[topology.rank].start : clips[topology.rank].stop],
            clips,
            topology,
            Exchange(topology, groups.data, clock),
            buffers=HostBuffers(topology.device, ahead, frames=decoder.grid.latents * FRAMES_PER_LATENT),
            clock=clock,
            agree=agree,
            sink=sink,
            on_frames=lambda _: None,
            frame_grid=GRID,
            first_frame=first_frame,
        )
    except (GenerationCancelledError, OutputInvalidError) as error:
        ended = f"{type(error).__name__}: {error}"
    return sink, decoder, ended


def two_after_each_other(topology: Topology, groups: Groups, kind: str, stop_at: int) -> tuple[str, list[int], Any]:
    """Cancel a video in the middle; then make it, by the same ranks over the same groups."""
    first, _, ended = decoded(topology, groups, kind, stop_at=stop_at)
    second, _, _ = decoded(topology, groups, kind)
    return ended, first.order, second.frames


def joined(results: list[tuple[Sink, FakeDecoder, str]]) -> dict[int, Pixels]:
    frames: dict[int, Pixels] = {}
    for sink, _, ended in results:
        assert not ended
        assert sink.delivered
        assert sink.order == sorted(sink.order)
        assert not frames.keys() & sink.frames.keys()
        frames |= sink.frames
    return frames


def same(got: dict[int, Pixels], expected: dict[int, Pixels]) -> None:
    assert sorted(got) == sorted(expected)
    for index, pixels in expected.items():
        np.testing.assert_array_equal(got[index], pixels, err_msg=f"frame {index}")


def run(
    pool: RankPool, world_size: int, kind: str, first_frame: int = 0, changes: dict[str, Any] | None = None
) -> list[tuple[Sink, FakeDecoder, str]]:
    return pool.run(world_size, decoded_with, kind, first_frame, changes)


def decoded_with(
    topology: Topology, groups: Groups, kind: str, first_frame: int, changes: dict[str, Any] | None
) -> tuple[Sink, FakeDecoder, str]:
    return decoded(topology, groups, kind, first_frame=first_frame, changes=changes)


@pytest.mark.process
@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_same_frames_on_any_number_of_ranks(rank_pool: RankPool, kind: str, world_size: int) -> None:
    whole = joined([decoded(*ALONE, kind)])
    assert sorted(whole) == list(range(FRAMES))
    results = run(rank_pool, world_size, kind)
    same(joined(results), whole)
    chunks = sorted(chunk.start for _, decoder, _ in results for chunk, _, _ in decoder.chunks)
    assert chunks == list(range(0, LATENTS, 2)), "every chunk is decoded once"


@pytest.mark.process
@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize(("world_size", "first_frame"), [(2, 1), (3, 9), (3, 26), (4, 32), (2, 48), (2, 49)])
def test_a_video_goes_on_anywhere(rank_pool: RankPool, kind: str, world_size: int, first_frame: int) -> None:
    whole = joined([decoded(*ALONE, kind)])
    results = run(rank_pool, world_size, kind, first_frame)
    first_chunk = GRID.latent_of(first_frame) // 2
    start = GRID.frames_of(range(2 * first_chunk, LATENTS)).start if first_frame < FRAMES else FRAMES
    same(joined(results), {index: pixels for index, pixels in whole.items() if index >= start})
    decoded_chunks = sorted(chunk.start // 2 for _, decoder, _ in results for chunk, _, _ in decoder.chunks)
    earliest = first_chunk - 1 if kind == "blend" and first_chunk else first_chunk
    assert decoded_chunks == (list(range(earliest, -(-LATENTS // 2))) if first_frame < FRAMES else [])


@pytest.mark.process
@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_cancel_in_the_middle_leaves_the_ranks_usable(rank_pool: RankPool, kind: str, stop_at: int) -> None:
    results = rank_pool.run(3, two_after_each_other, kind, stop_at)
    assert all(ended.startswith("GenerationCancelledError") for ended, _, _ in results)
    first = [frame for _, order, _ in results for frame in order]
    chunks_a_round = 1 if kind == "state" else 3
    assert len(first) == len(GRID.frames_of(range(2 * chunks_a_round * (stop_at - 1)))), "whole rounds"
    again = {index: pixels for _, _, frames in results for index, pixels in frames.items()}
    same(again, joined([decoded(*ALONE, kind)]))


@pytest.mark.process
@pytest.mark.parametrize("kind", DECODERS)
def test_what_is_not_finite_ends_it_on_every_rank(rank_pool: RankPool, kind: str) -> None:
    results = run(rank_pool, 2, kind, 0, {"poisoned": 3})
    assert all(ended.startswith("OutputInvalidError") for _, _, ended in results)
    assert max(frame for sink, _, _ in results for frame in sink.order) < 6 * FRAMES_PER_LATENT
    dark = run(rank_pool, 2, kind, 0, {"is_dark": True})
    assert all("black" in ended for _, _, ended in dark)
    assert not any(sink.frames for sink, _, _ in dark)
    # All but the first round's chunk of each rank, or with a state the first chunk alone, are samples.
    samples = [decoder.chunks[0 if kind == "state" and rank else 1 :] for rank, (_, decoder, _) in enumerate(dark)]
    assert abs(len(samples[0]) - len(samples[1])) <= 1, "dealt evenly"
    if kind == "state":
        assert all(len(seen) == 2 and not carried for own in samples for _, seen, carried in own)


@pytest.mark.fast
@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("ahead", [0, 1])
def test_a_long_video_goes_through_the_same_few_buffers(kind: str, ahead: int) -> None:
    sink, decoder, _ = decoded(*ALONE, kind, ahead=ahead, latent_count=60)
    most = decoder.grid.latents * FRAMES_PER_LATENT
    assert sink.order == list(range(4 * 59 + 1))
    assert len(sink.places) == (ahead + 1) * most
    assert sink.most_wanted == (ahead + 1) * most


def decoded_ahead(topology: Topology, groups: Groups, kind: str) -> tuple[Sink, FakeDecoder, str]:
    return decoded(topology, groups, kind, ahead=1)


@pytest.mark.process
@pytest.mark.parametrize("kind", DECODERS)
def test_frames_under_way_leave_while_others_decode(rank_pool: RankPool, kind: str) -> None:
    same(joined(rank_pool.run(3, decoded_ahead, kind)), joined([decoded(*ALONE, kind)]))


@pytest.mark.fast
def test_only_the_first_chunk_after_a_break_sees_what_brings_its_state_about() -> None:
    _, decoder, _ = decoded(*ALONE, "state", first_frame=33)
    (first, first_seen, first_carried), *others = decoder.chunks
    assert (first, first_seen, first_carried) == (range(8, 10), range(8 - MEMORY, 10), False)
    assert all(seen == chunk and carried for chunk, seen, carried in others)


@pytest.mark.fast
@pytest.mark.parametrize("kind", DECODERS)
def test_the_probe_decodes_the_dearest_chunk(kind: str) -> None:
    decoder = DECODERS[kind]()
    probe_chunk(decoder, (4, 2, 3), torch.device("cpu"))
    grid = decoder.grid
    chunk, seen, carried = decoder.chunks[-1]
    assert chunk.start > 0, "the first one has fewer frames"
    assert len(chunk) == grid.latents
    assert len(seen) == grid.latents + grid.after + grid.before
    assert carried == (kind == "state")
    assert sum(len(seen) for _, seen, _ in decoder.chunks) <= 2 * (grid.latents + grid.after + grid.before)


@pytest.mark.fast
def test_a_decoder_that_gives_the_wrong_number_of_pictures_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.temporal.FRAMES_PER_LATENT", 3)
    with pytest.raises(ValueError, match="decode_chunk: 4 pictures of latent frames 0 to 1 are not the 5"):
        decoded(*ALONE, "around")
