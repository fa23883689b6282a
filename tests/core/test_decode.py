"""The decode pipeline on a CPU, as it runs there and, one slice ahead, as it runs on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.engine import Recorder, make_generator, spec
from tests.support.lending import Lender
from vinf_core.context.partition import partition
from vinf_core.decode.buffers import HostBuffers
from vinf_core.decode.decoder import decode_video
from vinf_core.decode.slices import SLICE_FRAMES
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine import generator as generator_module
from vinf_core.errors import GenerationCancelledError, OutputInvalidError
from vinf_core.events import Agreement, Boundary, FrameSink, StageClock, Verdict
from vinf_core.types import Stage

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")
AHEAD = pytest.mark.parametrize("ahead", [0, 1])


OFFSET = 20
"""Level of frame 0's colour: not black."""


class Painter:
    """A model whose frames have the colour of their latent, counted from `OFFSET`; says what it decodes."""

    device = CPU
    temporal_decoder = None

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def decode(self, latents):
        self.log.append(f"decode {int(latents[0])}")
        return (latents + OFFSET).view(-1, 1, 1, 1).expand(-1, 6, 5, 3) / 255


class Dealt:
    """An exchange that already has every frame: a frame's latent is its index."""

    def deal(self, own, clips, needs):
        return torch.tensor([float(frame) for frame in sorted(needs[int(own)])])

    def __init__(self, world_size):
        self.world_size = world_size

    def sum(self, values):
        return values + self.world_size - 1  # the others have something to show


class LoggingSink(Recorder):
    """A recorder that says what happens to it, holds a limited number of frames and remembers where they were."""

    def __init__(self, log: list[str], room: int = 1000) -> None:
        super().__init__()
        self.log = log
        self.room = room
        self.queued = 0
        self.places: set[int] = set()

    def wait_for_room(self, frames: int, timeout: float) -> bool:
        if timeout > 0:
            begun = [int(line.split()[1]) for line in self.log if line.startswith("decode")]
            assert set(begun) <= self.frames.keys(), "waits with frames in hand"
            if self.room - self.queued < frames:
                self.queued = 0  # a patient caller sees the queue drained
        return self.room - self.queued >= frames

    def send(self, frame_index, pixels):
        super().send(frame_index, pixels)
        self.queued += 1
        assert self.queued <= self.room, "sent without room"
        self.log.append(f"send {frame_index}")
        self.places.add(pixels.__array_interface__["data"][0])

    def finish(self) -> None:
        super().finish()
        self.log.append("finish")


def go(
    ready: bool = True, *, save: bool = False, invalid: bool = False, boundary: Boundary = Boundary.DECODE
) -> Verdict:
    if invalid:
        raise OutputInvalidError("said so")
    return Verdict.GO if ready else Verdict.WAIT


def decode(
    frame_count: int,
    sink: FrameSink,
    *,
    ahead: int,
    log: list[str] | None = None,
    rank: int = 0,
    world_size: int = 1,
    agree: Agreement = go,
    on_frames: Callable[[int], None] = lambda _: None,
    clock: StageClock | None = None,
    model: Painter | None = None,
    first_frame: int = 0,
) -> None:
    decode_video(
        model or Painter([] if log is None else log),
        torch.tensor(rank),
        partition(frame_count, [1] * world_size),
        Topology(rank=rank, world_size=world_size, device=CPU),
        Dealt(world_size),
        buffers=HostBuffers(CPU, ahead),
        clock=clock or StageClock(CPU),
        agree=agree,
        sink=sink,
        on_frames=on_frames,
        first_frame=first_frame,
    )


def check(frames) -> None:
    for index, pixels in frames.items():
        assert pixels.shape == (6, 5, 3)
        assert (pixels == index + OFFSET).all(), f"frame {index} shows {np.unique(pixels)}"


@AHEAD
@pytest.mark.parametrize("frame_count", [1, 3, 4, 5, 8, 47])
@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_every_frame_is_delivered_once_and_in_order(frame_count: int, world_size: int, ahead: int) -> None:
    delivered, votes = [], []
    for rank in range(world_size):
        log: list[str] = []
        counts: list[int] = []
        ballots: list[bool] = []

        def agree(ready: bool = True, *, ballots: list[bool] = ballots, **more: Any) -> Verdict:
            ballots.append(ready)
            return go(ready, **more)

        sink = LoggingSink(log)
        decode(
            frame_count,
            sink,
            ahead=ahead,
            log=log,
            rank=rank,
            world_size=world_size,
            agree=agree,
            on_frames=counts.append,
        )
        check(sink.frames)
        sent = [int(line.split()[1]) for line in log if line.startswith("send")]
        assert sent == sorted(sent)
        assert sum(counts) == len(sent)
        assert log[-1] == "finish"
        delivered += sent
        votes.append(len(ballots))
    assert sorted(delivered) == list(range(frame_count))
    rounds = -(-frame_count // (SLICE_FRAMES * world_size))
    assert votes == [rounds + 1] * world_size, "every rank votes at the same places"


def test_one_slice_is_decoded_ahead_but_the_first_is_never_late() -> None:
    log: list[str] = []
    decode(10, LoggingSink(log), ahead=1, log=log)
    slices = [[f"send {frame}" for frame in frames] for frames in (range(4), range(4, 8), range(8, 10))]
    assert log == ["decode 0", *slices[0], "decode 4", "decode 8", *slices[1], *slices[2], "finish"]


def test_nothing_is_held_back_on_a_cpu() -> None:
    assert HostBuffers(CPU).ahead == 0
    log: list[str] = []
    decode(6, LoggingSink(log), ahead=0, log=log)
    assert log == ["decode 0", *(f"send {i}" for i in range(4)), "decode 4", "send 4", "send 5", "finish"]


@AHEAD
def test_a_long_video_goes_through_the_same_few_buffers(ahead: int) -> None:
    sink = LoggingSink([])
    decode(200, sink, ahead=ahead)
    assert len(sink.frames) == 200
    assert len(sink.places) == (ahead + 1) * SLICE_FRAMES


@pytest.mark.parametrize("room", [4, 6, 8, 9])
def test_a_slow_taker_gets_no_more_than_it_has_room_for(room: int) -> None:
    log: list[str] = []
    sink = LoggingSink(log, room)
    decode(47, sink, ahead=1, log=log)
    assert sorted(sink.frames) == list(range(47))
    check(sink.frames)


def test_frames_in_hand_are_handed_over_before_a_rank_waits() -> None:
    """Another rank is the slow one: this rank's finished slice goes out although the next round has not begun."""
    log: list[str] = []
    verdicts = iter([True, True, False, True])

    def agree(ready: bool = True, **more: Any) -> Verdict:
        log.append("vote")
        return go(ready and next(verdicts, True), **more)

    decode(12, LoggingSink(log), ahead=1, log=log, agree=agree)
    slices = [[f"send {frame}" for frame in range(start, start + 4)] for start in (0, 4, 8)]
    assert log == [
        *("vote", "decode 0", *slices[0]),
        *("vote", "decode 4"),
        *("vote", *slices[1], "vote", "decode 8"),
        *(*slices[2], "finish", "vote"),
    ]


def cancel_at(vote: int, votes: list[bool]) -> Agreement:
    def agree(ready: bool = True, **more: Any) -> Verdict:
        votes.append(ready)
        if len(votes) == vote:
            raise GenerationCancelledError("enough")
        return go(ready, **more)

    return agree


def test_a_cancel_drops_what_is_under_way() -> None:
    log: list[str] = []
    counts: list[int] = []
    sink = LoggingSink(log)
    with pytest.raises(GenerationCancelledError):
        decode(40, sink, ahead=1, log=log, agree=cancel_at(4, []), on_frames=counts.append)
    assert [line for line in log if line.startswith("decode")] == ["decode 0", "decode 4", "decode 8"]
    assert sorted(sink.frames) == list(range(8)), "the third slice was still under way"
    assert sum(counts) == 8
    assert not sink.delivered


@AHEAD
def test_a_cancelled_generation_abandons_its_sink_and_the_next_is_whole(
    ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator_module, "HostBuffers", partial(HostBuffers, ahead=ahead))
    generator, _, _ = make_generator(Topology.single(), Groups(control=None, data=None), torch.float32)
    abandoned: list[int] = []

    class Sink(Recorder):
        def abandon(self) -> None:
            abandoned.append(len(self.frames))

    def make(sink: Recorder, agree: Agreement) -> None:
        generator.generate("g", what, observer=Recorder(), open_sink=lambda _: sink, agree=agree)

    what = spec(frame_count=14, step_count=2)
    with pytest.raises(GenerationCancelledError):
        make(Sink(), cancel_at(what.step_count + 5, []))
    assert abandoned == [(3 - ahead) * SLICE_FRAMES]
    whole, plain = Recorder(), Recorder()
    make(whole, go)
    assert sorted(whole.frames) == list(range(14))
    assert generator.decoded_frames == abandoned[0] + 14
    monkeypatch.setattr(generator_module, "HostBuffers", HostBuffers)
    make(plain, go)
    for index, pixels in plain.frames.items():
        np.testing.assert_array_equal(whole.frames[index], pixels)


class Keeper(Recorder):
    """Breaks the contract: keeps what it was lent."""

    def send(self, frame_index, pixels):
        self.frames[frame_index] = pixels


def test_a_sink_that_keeps_what_it_was_lent_is_found_out() -> None:
    for ahead in (0, 1):
        keeper = Keeper()
        decode(40, keeper, ahead=ahead)
        with pytest.raises(AssertionError, match="shows"):
            check(keeper.frames)


@pytest.mark.parametrize(("kind", "obeys"), [(Recorder, True), (Keeper, False)])
def test_the_recorder_of_the_tests_takes_copies(kind: type[Recorder], obeys: bool) -> None:
    sink = kind()
    frames = {index: np.full((6, 5, 3), index, np.uint8) for index in range(3)}
    lender = Lender(sink, frames[0])
    for index, pixels in frames.items():
        lender.send(index, pixels)
    assert all(np.array_equal(sink.frames[index], pixels) for index, pixels in frames.items()) == obeys


def test_more_slices_than_buffers_are_refused() -> None:
    buffers = HostBuffers(CPU, ahead=1)
    pictures = torch.zeros(SLICE_FRAMES, 6, 5, 3, dtype=torch.uint8)
    buffers.fetch(pictures, torch.tensor(True))
    with buffers.oldest() as lent:
        assert lent.shape == (SLICE_FRAMES, 6, 5, 3)
        buffers.fetch(pictures, torch.tensor(True))
        with pytest.raises(BufferError, match="all 2 host buffers"):
            buffers.fetch(pictures, torch.tensor(True))
    buffers.fetch(pictures[:1], torch.tensor(True))
    assert len(buffers) == 2


def test_time_is_credited_to_decode_and_deliver() -> None:
    clock = StageClock(CPU)
    decode(40, LoggingSink([]), ahead=1, clock=clock)
    clock.collect()
    assert clock.seconds[Stage.DECODE] > 0
    assert clock.seconds[Stage.DELIVER] > 0
    assert sum(clock.seconds.values()) == clock.seconds[Stage.DECODE] + clock.seconds[Stage.DELIVER]


def test_waiting_for_the_server_is_no_work() -> None:
    clock = StageClock(CPU)
    delivering: list[float] = []

    class SlowServer(LoggingSink):
        def wait_for_delivery(self, timeout: float) -> bool:
            delivering.append(clock.seconds[Stage.DELIVER])
            return len(delivering) == 3

    decode(4, SlowServer([]), ahead=1, clock=clock)
    assert delivering == [clock.seconds[Stage.DELIVER]] * 3


@AHEAD
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("first_frame", [0, 1, 4, 30, 46, 47])
def test_decoding_starts_at_the_slice_that_holds_the_first_frame(first_frame: int, world_size: int, ahead: int) -> None:
    delivered, votes = set(), set()
    for rank in range(world_size):
        ballots: list[bool] = []
        sink = LoggingSink([])
        decode(
            *(47, sink),
            ahead=ahead,
            rank=rank,
            world_size=world_size,
            first_frame=first_frame,
            agree=cancel_at(0, ballots),
        )
        check(sink.frames)
        assert sink.delivered
        delivered |= sink.frames.keys()
        votes.add(len(ballots))
    wanted = range(first_frame // SLICE_FRAMES * SLICE_FRAMES if first_frame < 47 else 47, 47)
    assert delivered == set(wanted)
    assert len(votes) == 1, "every rank votes at the same places"


class Broken(Painter):
    """Paints NaN into one frame, and black from one frame to another."""

    def __init__(self, *, nan: int = -1, black: range = range(0)) -> None:
        super().__init__([])
        self.nan = nan
        self.black = black
        self.decoded: list[int] = []

    def decode(self, latents):
        self.decoded += [int(latent) for latent in latents]
        pictures = super().decode(latents).clone()
        for picture, latent in zip(pictures, latents, strict=True):
            if latent == self.nan:
                picture[2, 3, 1] = float("nan")
            if int(latent) in self.black:
                picture[:] = -0.3
        return pictures


@AHEAD
@pytest.mark.parametrize("nan", [0, 5, 38, 39])
def test_a_slice_that_is_not_finite_never_leaves(nan: int, ahead: int) -> None:
    sink = LoggingSink([])
    with pytest.raises(OutputInvalidError):
        decode(40, sink, ahead=ahead, model=Broken(nan=nan))
    assert set(sink.frames) <= set(range(nan // SLICE_FRAMES * SLICE_FRAMES))
    assert not sink.delivered


@pytest.mark.parametrize("frame_count", [1, 4, 5, 47])
def test_a_video_that_is_all_black_is_none(frame_count: int) -> None:
    sink = LoggingSink([])
    model = Broken(black=range(frame_count))
    with pytest.raises(OutputInvalidError, match="black"):
        decode(frame_count, sink, ahead=0, model=model)
    assert not sink.frames
    assert len(model.decoded) <= SLICE_FRAMES + 8


def test_a_video_may_begin_in_black() -> None:
    sink = LoggingSink([])
    decode(47, sink, ahead=0, model=Broken(black=range(20)))
    assert sorted(sink.frames) == list(range(47))
    assert not sink.frames[0].any()
    late = LoggingSink([])
    decode(47, late, ahead=0, model=Broken(black=range(47)), first_frame=9)
    assert sorted(late.frames) == list(range(8, 47)), "the rest of a video whose beginning was looked at"
