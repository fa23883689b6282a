"""Progress in words."""

import io

import pytest

from vinf_client import GenerationStage, GenerationState, Progress, QueueFullError, ServerNotReadyError
from vinf_client.progress import PlainDisplay, RichDisplay, SilentDisplay, Tracker, choose_display

pytestmark = pytest.mark.fast


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def snapshot(state="running", stage="denoise", steps=0, frames=0, queue=0):
    return Progress(GenerationState(state), GenerationStage(stage), steps, 20, frames, 96, queue)


def test_words():
    clock = Clock()
    tracker = Tracker(clock)
    assert tracker.describe(snapshot("pending", "queued", queue=2)) == ("queued, 2 ahead", 0.0)
    assert tracker.describe(snapshot("pending", "queued"))[0] == "queued, next in line"
    assert tracker.describe(snapshot(stage="text"))[0] == "reading the prompt"
    assert tracker.describe(snapshot()) == ("denoising, step 0 of 20", 0.0)
    clock.now = 10
    assert tracker.describe(snapshot(steps=5)) == ("denoising, step 5 of 20, 30 s left", 0.25)
    assert tracker.describe(snapshot(stage="decode", steps=20))[0] == "decoding, frame 0 of 96"
    clock.now = 14
    line, share = tracker.describe(snapshot(stage="decode", steps=20, frames=24))
    assert (line, share) == ("decoding, frame 24 of 96, 6.0 frames/s, 12 s left", 0.25)
    assert tracker.describe(snapshot("succeeded", "decode", 20, 96))[0] == "decoding, frame 96 of 96, 24.0 frames/s"
    assert tracker.describe(snapshot("cancelling"))[0] == "cancelling"
    assert tracker.describe(snapshot("suspended", frames=24))[0] == "suspended; it goes on by itself"


def test_a_resumed_generation_may_go_back():
    clock = Clock()
    tracker = Tracker(clock)
    tracker.describe(snapshot(steps=10))
    clock.now = 1
    assert tracker.describe(snapshot(steps=4))[0] == "denoising, step 4 of 20"


def test_long_times_are_readable():
    clock = Clock()
    tracker = Tracker(clock)
    tracker.describe(snapshot())
    clock.now = 10
    assert tracker.describe(snapshot(steps=1))[0].endswith("3:10 min left")
    clock.now = 1000
    assert tracker.describe(snapshot(steps=1))[0].endswith("5:16 h left")


def test_plain_lines_are_few():
    clock, stream = Clock(), io.StringIO()
    display = PlainDisplay(stream, clock)
    display.waiting(ServerNotReadyError("later", reason="WORKERS_NOT_READY"))
    display.waiting(ServerNotReadyError("later", reason="WORKERS_NOT_READY"))
    display.waiting(QueueFullError("later", reason="QUEUE_FULL"))
    for step in range(12):
        clock.now += 1
        display.update(snapshot(steps=step))
    display.update(snapshot("succeeded", "decode", 20, 96))
    display.close()
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["vinf: waiting for the ranks", "vinf: waiting for room in the server's queue"]
    assert [line.split(",")[1] for line in lines[2:5]] == [" step 0 of 20", " step 5 of 20", " step 10 of 20"]
    assert lines[5].startswith("vinf: decoding, frame 96 of 96")
    assert len(lines) == 6


def test_a_terminal_gets_one_live_line(capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    display = choose_display(quiet=False, stream=stream)
    assert isinstance(display, RichDisplay)
    display.note("starting")
    display.waiting(ServerNotReadyError("later", reason="WORKERS_NOT_READY"))
    display.update(snapshot(steps=5))
    print("for a pipe")
    display.close()
    display.close()
    assert "step 5 of 20" in stream.getvalue()
    assert capsys.readouterr().out == "for a pipe\n", "what goes elsewhere is not drawn on the terminal"


def test_the_choice():
    assert isinstance(choose_display(quiet=True), SilentDisplay)
    assert isinstance(choose_display(quiet=False, stream=io.StringIO()), PlainDisplay)
