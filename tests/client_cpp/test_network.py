"""Broken connections, restarted servers, bad lines: every frame still comes once, in order, byte by byte."""

from __future__ import annotations

import itertools
import time

import pytest

from tests.chaos.proxy import Weather
from tests.client_cpp.conftest import BUILD_TIMEOUT_S

pytestmark = [pytest.mark.process, pytest.mark.timeout(BUILD_TIMEOUT_S)]


def test_a_killed_server_is_found_again(start_front, drive, tmp_path):
    """Killed while it makes frames: the next life makes the rest."""
    front = start_front()
    front.hold_from(10)
    generation = front.make(frames=40, wait=False)
    out = tmp_path / "frames.rgb"
    running = drive.start("next", server=front.address, generation=generation, out=out, attempts=100)
    running.wait_for("frame 9 ")
    front.kill()
    front.let_go()
    front.begin()
    outcome = running.end()
    assert outcome.status == "OK reason="
    assert outcome.indices == list(range(40))
    assert outcome.stats["reconnects"] >= 1
    assert out.read_bytes() == b"".join(front.frames(generation))


def test_a_drained_server_is_found_again(start_front, drive_once, tmp_path):
    """Asked to end, it tells its readers so; they come back to the next one.

    It would wait for a generation that can end within the grace, so this one cannot.
    """
    front = start_front("--grace", "4")
    front.hold_from(10)
    generation = front.make(frames=40, wait=False)
    out = tmp_path / "frames.rgb"
    running = drive_once.start("next", server=front.address, generation=generation, out=out, attempts=100)
    running.wait_for("frame 9 ")
    front.stop()
    front.let_go()
    front.begin()
    outcome = running.end()
    assert outcome.status == "OK reason="
    assert outcome.indices == list(range(40))
    assert outcome.stats["reconnects"] >= 1
    assert out.read_bytes() == b"".join(front.frames(generation))


def test_connections_that_are_cut_again_and_again(front, proxy_to, drive, tmp_path):
    """Cut at any moment, within frames too: the line is slow enough for many cuts, also by a test that comes late."""
    generation = front.make(frames=24, width=256, height=128)
    proxy = proxy_to(front.address)
    proxy.set(Weather(bytes_per_s=400_000))  # 4 frames a second
    out = tmp_path / "frames.rgb"
    running = drive.start("next", server=proxy.address, generation=generation, out=out, max_message=65536, attempts=100)
    for index in range(2, 24, 3):
        running.wait_for(f"frame {index} ")
        proxy.do(proxy.proxy.reset())
    outcome = running.end()
    assert outcome.status == "OK reason="
    assert outcome.indices == list(range(24))
    assert outcome.stats["reconnects"] >= 3
    assert out.read_bytes() == b"".join(front.frames(generation))


def test_bytes_one_by_one_and_late(front, proxy_to, drive, tmp_path):
    generation = front.make(frames=6, width=32, height=32)
    proxy = proxy_to(front.address)
    proxy.set(Weather(delay_s=0.02, piece_bytes=1))
    out = tmp_path / "frames.rgb"
    outcome = drive("next", server=proxy.address, generation=generation, out=out)
    assert outcome.indices == list(range(6))
    assert outcome.stats["reconnects"] == 0
    assert out.read_bytes() == b"".join(front.frames(generation))


def test_a_network_that_falls_silent_and_breaks(front, proxy_to, drive_once):
    generation = front.make(frames=40, width=256, height=128)
    proxy = proxy_to(front.address)
    running = drive_once.start("next", server=proxy.address, generation=generation, hold=3, ring=2)
    running.wait_for("holding")
    proxy.set(Weather(silent=True))
    running.go_on()
    time.sleep(0.5)  # what was pulled ahead is used up
    proxy.do(proxy.proxy.reset())
    proxy.set(Weather())
    assert running.end().indices == list(range(40))


def test_a_reader_that_pauses_keeps_its_generation(start_front, drive_once):
    """Nobody pulls while the ring is full, and the lease is short; still the generation lives."""
    front = start_front(interval_s=0.25)
    generation = front.make(frames=40, wait=False, detached=False, lease=5)
    running = drive_once.start("next", server=front.address, generation=generation, hold=1, ring=2)
    running.wait_for("holding")
    time.sleep(6.5)  # longer than the lease: what is tested is that nothing happens
    running.go_on()
    outcome = running.end()
    assert outcome.status == "OK reason="
    assert outcome.indices == list(range(40))


def shown(outcome):
    return [int(entry[0]) for entry in outcome.pairs("show")]


def test_a_render_loop_survives_a_silent_network(front, proxy_to, drive):
    """It repeats what it has, never waits, and goes on at the video's own speed, without leaving frames out."""
    # Most of the video is not pulled yet when the network falls silent, also where the test is late with that.
    generation = front.make(frames=200, width=256, height=128)
    proxy = proxy_to(front.address)
    running = drive.start("latest", server=proxy.address, generation=generation, fps=100, ring=2)
    running.wait_for("show 8 ")
    proxy.set(Weather(silent=True))
    time.sleep(3)  # up to two windows and the ring were pulled ahead, 1.4 s; the rest is longer than a stall
    proxy.set(Weather())
    outcome = running.end()
    assert outcome.status == "OK reason="
    frames = shown(outcome)
    assert frames[-1] == 199
    assert frames == sorted(set(frames))
    stats = outcome.stats
    assert stats["repeats"] > 10
    assert stats["stalls"] >= 1
    assert stats["rebases"] >= 1
    assert stats["reconnects"] == 0
    assert stats["shown"] + stats["dropped"] == 200
    assert int(outcome.one("longest_us")) < 1_000_000, "a tick waited for the network"
    times = [int(entry[2]) for entry in outcome.pairs("show")]
    gap = max(later - earlier for earlier, later in itertools.pairwise(times))
    assert gap > 500_000, "the network was silent for longer than what was pulled ahead lasts"


def test_a_live_view_shows_the_newest_and_leaves_the_rest(start_front, drive):
    """The producer makes 50 frames a second, the consumer takes ten."""
    front = start_front(interval_s=0.02)
    generation = front.make(frames=100, wait=False)
    outcome = drive("latest", "--live", server=front.address, generation=generation, fps=10, delivery=2)
    frames = shown(outcome)
    assert outcome.status == "OK reason="
    assert frames == sorted(set(frames))
    stats = outcome.stats
    assert frames[-1] == 99
    assert len(frames) < 80
    assert stats["shown"] + stats["dropped"] + stats["skipped"] == 100
    assert stats["dropped"] + stats["skipped"] >= 20


def test_a_finished_video_shown_live_is_its_last_frame(front, drive_once):
    generation = front.make(frames=40)
    outcome = drive_once("latest", "--live", server=front.address, generation=generation, fps=100, delivery=2)
    assert shown(outcome) == [39]
    assert outcome.stats["skipped"] == 39
