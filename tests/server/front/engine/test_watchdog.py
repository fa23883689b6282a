"""When ranks are taken for hung, and when they are not; by a clock that a test turns."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.fakes import model_limits
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_server.front.engine.group import CHECK_S, Group
from vinf_server.front.engine.watchdog import AttentiveClock, HangLimits, Pace

pytestmark = pytest.mark.fast

STEP_FRAMES, WIDTH, HEIGHT = 16, 64, 64


class Ranks:
    """Two ranks that beat once a second, and whose work gets on as a test says."""

    def __init__(self, *, is_ready=True, pace=None):
        self.now = 100.0
        self.counts = [0, 0]
        self.silent = set()
        self.group = Group(1, 2, limits=HangLimits(), pace=pace, monotonic=lambda: self.now)
        if is_ready:
            self.group.take_ready(pb.ReadyReport(world_size=2, model=model_limits()))
            self.beat()

    def beat(self):
        for rank, count in enumerate(self.counts):
            if rank not in self.silent:
                beat = pb.BeatRequest(rank=rank, pid=100 + rank, device="cpu", progress_count=count)
                self.group.take_beat(beat)

    def begin(self, *, frames=STEP_FRAMES):
        order = pb.GenerateOrder(generation_id="g", frame_count=frames, width=WIDTH, height=HEIGHT)
        self.group.send(pb.AttachResponse(generate=order))
        return self

    def prepared(self):
        progress = pb.ProgressReport(generation_id="g", stage=pb.STAGE_DENOISE)
        self.group.take_report(pb.AttachRequest(progress=progress))
        return self

    def step(self, seconds):
        progress = pb.ProgressReport(generation_id="g", stage=pb.STAGE_DENOISE, step_seconds=seconds)
        self.group.take_report(pb.AttachRequest(progress=progress))

    def finish(self):
        self.group.take_report(pb.AttachRequest(finished=pb.FinishedReport(generation_id="g")))

    def run(self, seconds, *, busy=()):
        """Let time pass; ranks in `busy` get on. Returns when the group was lost, in seconds from now."""
        for tick in range(1, round(seconds / CHECK_S) + 1):
            self.now += CHECK_S
            if tick % 2 == 0:
                for rank in busy:
                    self.counts[rank] += 1
                self.beat()
            self.group.check()
            if self.group.lost.done():
                return tick * CHECK_S
        return None

    @property
    def loss(self):
        return self.group.lost.result()


def run(scenario):
    async def play():
        scenario()

    asyncio.run(play())


def test_case_50_stopped_rank_is_found_by_its_silence():
    def scenario():
        ranks = Ranks()
        ranks.silent = {1}
        assert 4 < ranks.run(60) <= 5
        assert (ranks.loss.cause, ranks.loss.rank) == ("hang", 1)
        assert ranks.loss.message == "rank 1 (pid 101) gave no sign of life for 4 s"

    run(scenario)


def test_case_51_skipped_collective_is_found_after_five_seconds_of_short_steps():
    def scenario():
        ranks = Ranks().begin()
        for _ in range(4):
            ranks.step(0.2)
            assert ranks.run(2, busy=(0, 1)) is None
        assert ranks.run(1, busy=(0,)) is None  # rank 0 enters the collective that rank 1 skips
        assert 4 < ranks.run(60) <= 6
        assert (ranks.loss.cause, ranks.loss.rank) == ("hang", 1)
        assert "a step usually takes 0.20 s" in ranks.loss.message
        assert "rank 1 (pid 101, cpu)" in ranks.loss.message

    run(scenario)


def test_long_steps_get_ten_times_their_time():
    def scenario():
        ranks = Ranks().begin()
        for _ in range(3):
            assert ranks.run(3) is None
            ranks.step(3.0)
        assert 29 < ranks.run(100) <= 31

    run(scenario)


def test_case_55_rank_ten_times_slower_is_no_hang():
    """The fast rank waits at every exchange for three times as long as its limit; the slow one gets on by slices."""

    def scenario():
        ranks = Ranks().begin()
        ranks.step(0.2)
        assert ranks.run(20, busy=(1,)) is None

    run(scenario)


def test_waiting_for_a_slow_reader_is_no_hang():
    """Both ranks ask each other once a second whether there is room."""

    def scenario():
        ranks = Ranks().begin()
        ranks.step(0.2)
        assert ranks.run(600, busy=(0, 1)) is None

    run(scenario)


def test_idle_group_makes_no_progress_and_owes_none():
    def scenario():
        ranks = Ranks()
        assert ranks.run(600) is None
        ranks.begin()
        ranks.finish()
        assert ranks.run(600) is None

    run(scenario)


def test_first_step_of_all_may_take_a_minute():
    def scenario():
        ranks = Ranks().begin()
        assert ranks.run(59) is None
        assert ranks.run(10) <= 2
        assert "none of them has done a step yet" in ranks.loss.message

    run(scenario)


def test_later_orders_and_groups_are_judged_by_the_steps_before():
    def scenario():
        pace = Pace()
        first = Ranks(pace=pace).begin()
        first.step(1.0)
        assert 5 < Ranks(pace=pace).begin(frames=4).prepared().run(60) <= 6
        assert 40 < Ranks(pace=pace).begin(frames=4 * STEP_FRAMES).prepared().run(60) <= 41

    run(scenario)


def test_no_step_tells_how_long_texts_and_images_take():
    """A large encoder is moved to the device and back in one silent piece, for a short video as for a long one."""

    def scenario():
        pace = Pace()
        Ranks(pace=pace).begin().step(0.1)
        ranks = Ranks(pace=pace).begin(frames=4)
        progress = pb.ProgressReport(generation_id="g", stage=pb.STAGE_TEXT)
        ranks.group.take_report(pb.AttachRequest(progress=progress))
        assert 30 < ranks.run(60) <= 31

    run(scenario)


def test_longest_silence_so_far_counts_three_times():
    """Decoding a slice of large pictures takes longer than ten steps of a short clip."""

    def scenario():
        ranks = Ranks().begin()
        ranks.step(0.1)
        assert ranks.run(4) is None
        assert ranks.run(1, busy=(0, 1)) is None
        assert 14 < ranks.run(60) <= 16

    run(scenario)


def test_single_rank_that_hangs_is_found():
    def scenario():
        now = 100.0
        group = Group(1, 1, monotonic=lambda: now)
        group.take_ready(pb.ReadyReport(world_size=1, model=model_limits()))
        group.send(pb.AttachResponse(generate=pb.GenerateOrder(generation_id="g", frame_count=1, width=32, height=32)))
        progress = pb.ProgressReport(generation_id="g", step_seconds=0.1)
        group.take_report(pb.AttachRequest(progress=progress))
        for _ in range(20):
            now += CHECK_S
            group.take_beat(pb.BeatRequest(rank=0, pid=7, device="cpu", progress_count=5))
            group.check()
        assert group.lost.result().cause == "hang"

    run(scenario)


def test_case_61_long_start_is_no_hang_while_every_rank_beats():
    def scenario():
        ranks = Ranks(is_ready=False)
        ranks.beat()
        assert ranks.run(600) is None
        ranks.silent = {0}
        assert 60 < ranks.run(100) <= 62

    run(scenario)


def test_rank_that_never_beat_is_missed_once_another_has():
    def scenario():
        ranks = Ranks(is_ready=False)
        ranks.silent = {0, 1}
        assert ranks.run(600) is None
        ranks.silent = {1}
        assert 60 < ranks.run(100) <= 62
        assert ranks.loss.message == "rank 1 gave no sign of life for 60 s"

    run(scenario)


def test_front_that_was_stopped_itself_blames_nobody():
    def scenario():
        ranks = Ranks().begin()
        ranks.step(0.1)
        ranks.now += 3600
        ranks.group.check()
        assert not ranks.group.lost.done()
        assert ranks.run(3, busy=(0, 1)) is None

    run(scenario)


def test_clock_stands_still_while_nobody_ticks():
    now = 5.0
    clock = AttentiveClock(1.0, lambda: now)
    now = 5.5
    assert clock.tick() == 0.5
    now = 60.0
    assert clock.now() == 1.5
    assert clock.tick() == 1.5
    assert clock.now() == 1.5


def test_reports_of_another_generation_change_nothing():
    def scenario():
        ranks = Ranks().begin()
        for report in (
            pb.AttachRequest(finished=pb.FinishedReport(generation_id="other")),
            pb.AttachRequest(progress=pb.ProgressReport(generation_id="other", step_seconds=9.0)),
        ):
            ranks.group.take_report(report)
        assert ranks.group.work.usual_step_s is None

    run(scenario)
