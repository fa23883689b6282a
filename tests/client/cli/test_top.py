"""`vinf top`: figures between two looks, and the live view on a real terminal."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from tests.client.cli.ptys import ROOT, TIMEOUT_S, Terminal
from tests.client.fakes import ID
from vinf.v1 import generation_pb2 as pb
from vinf.v1 import server_info_service_pb2 as info_pb
from vinf_client import GenerationStage, GenerationState, Progress
from vinf_client.cli.overview import Job, Monitor, figures, render
from vinf_client.progress import Tracker

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"  # the alternate screen


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def monitor(server, client, clock):
    server.state = pb.GENERATION_STATE_RUNNING
    return Monitor(client, server.address, clock)


def shown(overview, width=120, **options):
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(overview, width=width, **options))
    return capture.get()


@pytest.mark.fast
class TestLooks:
    def test_rates_follow_from_two_looks(self, server, monitor, clock):
        server.info.ranks[0].frame_count = 100
        assert monitor.look().rates == {}
        server.info.ranks[0].frame_count = 130
        clock.now += 2
        overview = monitor.look()
        assert overview.rates == {0: 15.0}
        assert figures(overview)["frames_per_second"] == 15.0
        assert "15.0 frames/s" in shown(overview)

    def test_a_rank_that_started_anew_counts_from_0(self, server, monitor, clock):
        server.info.ranks[0].frame_count = 100
        monitor.look()
        server.info.ranks[0].frame_count = 8
        clock.now += 2
        assert monitor.look().rates == {0: 4.0}

    def test_a_rank_that_is_new_has_no_rate_yet(self, server, monitor, clock):
        monitor.look()
        server.info.ranks.append(info_pb.RankInfo(rank=1, host="there", pid=5))
        clock.now += 1
        overview = monitor.look()
        assert overview.rates == {0: 0.0}
        (line,) = [line for line in shown(overview).splitlines() if line.startswith("1 ")]
        assert line.split() == ["1", "starting", "there,", "pid", "5"]

    def test_a_generation_shows_how_far_it_is(self, monitor):
        text = shown(monitor.look())
        assert f"{ID}  " in text
        assert "decoding, frame 7 of 7" in text
        assert "a red ball" in text

    def test_an_empty_server(self, server, monitor):
        server.pages = [[]]
        text = shown(monitor.look())
        assert "no generation runs or waits" in text
        assert "ENDED" not in text

    def test_a_server_that_is_not_ready(self, server, monitor):
        server.info.ready = False
        assert "not ready: the ranks are not up" in shown(monitor.look())

    def test_how_long_it_is_up(self, server, monitor):
        now = datetime(2030, 1, 1, tzinfo=UTC)
        server.info.server_time.FromDatetime(now)
        server.info.start_time.FromDatetime(now - timedelta(days=2, hours=3, minutes=4))
        assert "up 2 d 3 h\n" in shown(monitor.look())

    def test_a_narrow_screen_loses_words_and_no_numbers(self, server, monitor, clock):
        server.info.ranks[0].frame_count, server.info.ranks[0].device_name = 123456, "a device with a long name" * 3
        monitor.look()
        clock.now += 1
        lines = shown(monitor.look(), width=80).splitlines()
        assert all(len(line) <= 80 for line in lines)
        (rank,) = [line for line in lines if line.startswith("0     ")]
        assert "123456" in rank
        assert "…" in rank

    @pytest.mark.parametrize(
        ("state", "stage", "counts", "wide", "narrow"),
        [
            ("running", "denoise", (12, 50, 0, 96, 0), "denoising, step 12 of 50", "step 12/50"),
            ("running", "decode", (50, 50, 7, 96, 0), "decoding, frame 7 of 96", "frame 7/96"),
            ("running", "text", (0, 50, 0, 96, 0), "reading the prompt", "prompt"),
            ("pending", "queued", (0, 50, 0, 96, 2), "queued, 2 ahead", "2 ahead"),
            ("pending", "queued", (0, 50, 0, 96, 0), "queued, next in line", "next in line"),
            ("suspended", "queued", (0, 50, 0, 96, 0), "suspended; it goes on by itself", ""),
        ],
        ids=["denoise", "decode", "text", "queued", "next", "suspended"],
    )
    def test_a_narrow_screen_shows_how_far_it_is_in_short(self, monitor, state, stage, counts, wide, narrow):
        (job,) = monitor.look().jobs
        generation = replace(
            job.generation,
            generation_id="01KB5QZ3X8W6V4T2S0R9P7N5M3",
            state=GenerationState(state),
            spec=replace(job.generation.spec, prompt="a red ball bouncing over the sea" * 3),
            progress=Progress(GenerationState(state), GenerationStage(stage), *counts),
        )
        overview = replace(monitor.look(), jobs=(Job(generation, Tracker().describe(generation.progress)[0], 0.5),))
        (line,) = [line for line in shown(overview, width=120).splitlines() if line.startswith("01KB")]
        assert f"  {wide}  " in line
        (line,) = [line for line in shown(overview, width=80).splitlines() if line.startswith("01KB")]
        assert f"  {narrow}  " in line
        assert len(line) <= 80
        assert line.count("…") == 1, "the prompt gives way, nothing else"

    def test_a_problem_takes_the_place_of_the_state(self, monitor):
        text = shown(monitor.look(), problem="no connection, retrying")
        assert "no connection, retrying" in text
        assert "ready" not in text


@pytest.mark.fast
class TestLines:
    def test_once(self, server, vinf, capsys):
        assert vinf("top", "--once", "--server", server.address) == 0
        out = capsys.readouterr().out
        assert f"vinf 0.1.0 at {server.address}  ready" in out
        assert "0     cpu (CPU)" in out

    def test_once_for_programs(self, server, vinf, capsys):
        assert vinf("top", "--once", "--json", "--server", server.address) == 0
        (line,) = capsys.readouterr().out.splitlines()
        told = json.loads(line)
        assert (told["connected"], told["ready"], told["version"]) == (True, True, "0.1.0")
        assert told["ranks"][0]["device"] == "cpu"
        assert told["generations"][0]["generation_id"] == ID

    def test_no_terminal(self, server, vinf, capsys):
        assert vinf("top", "--server", server.address) == 2
        assert capsys.readouterr().err == "vinf top: needs a terminal; --once prints once, --json one line a refresh\n"

    @pytest.mark.parametrize("mode", ["--once", "--json"])
    def test_no_server(self, vinf, capsys, mode):
        assert vinf("top", mode, "--server", "127.0.0.1:1") == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("vinf top: cannot reach a vinf server at 127.0.0.1:1: connection refused")

    @pytest.mark.parametrize("interval", ["0", "-1s", "soon"])
    def test_bad_intervals(self, vinf, capsys, interval):
        assert vinf("top", f"--interval={interval}") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"vinf top: --interval: '{interval}' is not allowed; allowed: a time such as 90s")


@pytest.mark.process
class TestLive:
    @pytest.fixture
    def top(self, server):
        server.state = pb.GENERATION_STATE_RUNNING

        def start(*arguments, **options):
            return Terminal("top", "--interval", "0.1", "--server", server.address, *arguments, **options)

        return start

    @pytest.mark.parametrize("keys", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
    def test_keys_leave(self, top, keys):
        with top() as terminal:
            terminal.expect(ENTER, "RANK", ID)
            assert not terminal.is_as_it_was(), "keys arrive at once"
            terminal.press(b"x")
            terminal.press(keys)
            assert terminal.wait() == 0
            assert terminal.output.count(LEAVE) == 1
            assert terminal.is_as_it_was()

    def test_figures_go_on(self, top, server):
        with top() as terminal:
            seen = terminal.expect("RANK")
            server.info.ranks[0].frame_count = 4321
            terminal.expect("4321", after=seen)
            terminal.press(b"q")
            assert terminal.wait() == 0

    def test_a_server_that_restarts_is_waited_for(self, top, server):
        with top() as terminal:
            terminal.expect("ready", ID)
            server.stop()
            seen = terminal.expect("no connection, retrying")
            assert ID in terminal.text, "what was known stays"
            server.restart()
            terminal.expect("  ready", after=seen)
            terminal.press(b"q")
            assert terminal.wait() == 0

    def test_a_window_that_shrinks(self, top):
        with top() as terminal:
            seen = terminal.expect("RANK")
            terminal.resize(40, 8)
            terminal.expect("RANK", after=seen)
            terminal.press(b"q")
            assert terminal.wait() == 0

    def test_nobody_there_is_told_before_the_screen_is_taken(self):
        with Terminal("top", "--server", "127.0.0.1:1") as terminal:
            assert terminal.wait() == 3
            assert ENTER not in terminal.output
            assert terminal.text.count("\n") == 1

    def test_lines_go_on_over_a_restart(self, server):
        command = ["top", "--json", "--interval", "0.1", "--server", server.address]
        process = subprocess.Popen(
            [sys.executable, "-m", "vinf_client.cli", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            assert json.loads(process.stdout.readline())["connected"]
            server.stop()
            while (told := json.loads(process.stdout.readline()))["connected"]:
                pass
            assert "cannot reach" in told["error"]
            server.restart()
            while not json.loads(process.stdout.readline())["connected"]:
                pass
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
