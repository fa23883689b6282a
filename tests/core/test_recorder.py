"""What the flight recorder keeps, what it leaves out, and how the engine's clock fills it."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from vinf_core import recorder as recorder_module
from vinf_core.events import StageClock
from vinf_core.recorder import Lane, Recorder, Span
from vinf_core.types import Stage

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")
MS = 1_000_000


def recording() -> Recorder:
    recorder = Recorder()
    recorder.begin()
    return recorder


def test_nothing_is_kept_outside_a_generation() -> None:
    recorder = Recorder()
    recorder.add(Span(Lane.COMPUTE, "step", 1, MS))
    recorder.begin()
    recorder.add(Span(Lane.COMPUTE, "step", 2, MS))
    recorder.end()
    recorder.add(Span(Lane.COMPUTE, "step", 3, MS))
    assert [span.start_ns for span in recorder.take(10)] == [2]


def test_the_spans_of_an_earlier_generation_are_forgotten() -> None:
    recorder = recording()
    recorder.add(Span(Lane.COMPUTE, "step", 1, MS))
    recorder.begin()
    assert recorder.take(10) == []


def test_it_is_bounded_and_details_stop_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "SPAN_LIMIT", 10)
    monkeypatch.setattr(recorder_module, "DETAIL_LIMIT", 6)
    recorder = recording()
    for number in range(8):
        recorder.add(Span(Lane.COMMUNICATE, "wait", number, MS))
    for number in range(8):
        recorder.add(Span(Lane.COMPUTE, "step", number, MS))
    spans = recorder.take(100)
    assert [span.lane for span in spans] == [Lane.COMMUNICATE] * 6 + [Lane.COMPUTE] * 4
    assert recorder.left_out_count == 2 + 4
    # What was taken away makes no room: the bound is one of the whole generation.
    recorder.add(Span(Lane.COMPUTE, "step", 9, MS))
    assert recorder.take(1) == []


def test_short_exchanges_have_no_span_of_their_own_short_steps_do() -> None:
    recorder = recording()
    recorder.add(Span(Lane.COMMUNICATE, "post", 1, recorder_module.SHORTEST_NS - 1))
    recorder.add(Span(Lane.COMPUTE, "step", 2, 5))
    assert [span.lane for span in recorder.take(10)] == [Lane.COMPUTE]
    assert recorder.left_out_count == 0


def test_any_thread_adds_while_another_takes() -> None:
    recorder, taken = recording(), []
    adders = [
        threading.Thread(target=lambda: [recorder.add(Span(Lane.DELIVER, "send", 1, MS)) for _ in range(2000)])
        for _ in range(4)
    ]
    for adder in adders:
        adder.start()
    while any(adder.is_alive() for adder in adders):
        taken += recorder.take(50)
    taken += recorder.take(10_000)
    assert len(taken) == 8000


def test_host_spans_are_on_the_wall_clock_also_when_the_block_fails() -> None:
    recorder = recording()
    before = time.time_ns()

    def fail() -> None:
        with recorder.host(Lane.WAIT, "agree"):
            threading.Event().wait(0.002)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    (span,) = recorder.take(10)
    assert span.duration_ns >= 2 * MS
    assert before - MS <= span.start_ns <= time.time_ns()
    assert span.start_ns + span.duration_ns <= time.time_ns() + MS


def test_the_clock_records_what_it_measures_with_the_part_that_communicated() -> None:
    clock = StageClock(CPU)
    clock.recorder.begin()
    pause = threading.Event()
    with clock.measure(Stage.DENOISE, "step", step=3):
        with clock.measure(Stage.COMMUNICATE, "post") as posted:
            pause.wait(0.001)
        pause.wait(0.005)
        with clock.measure(Stage.COMMUNICATE, "reduce"):
            pause.wait(0.001)
        with clock.measure(Stage.COMMUNICATE, "wait", since=posted):
            pause.wait(0.002)
    with clock.measure(Stage.DECODE, frames=range(4, 8)):
        pass
    spans = {span.name: span for span in clock.recorder.take(100)}
    step, post, reduce, wait, exchange = (spans[name] for name in ("step", "post", "reduce", "wait", "exchange"))
    communicated = post.duration_ns + reduce.duration_ns + wait.duration_ns
    assert (step.lane, step.step, post.step, exchange.step) == (Lane.COMPUTE, 3, 3, 3)
    assert step.communicate_ns == communicated
    for inner in (post, wait, exchange):
        assert step.start_ns <= inner.start_ns
        assert inner.start_ns + inner.duration_ns <= step.start_ns + step.duration_ns
    # The exchange lasts from the posting to the end of the wait; where the rank computed in between it was hidden.
    assert exchange.lane is Lane.TRANSFER
    assert exchange.start_ns == post.start_ns
    assert abs(exchange.start_ns + exchange.duration_ns - wait.start_ns - wait.duration_ns) <= 1000
    assert exchange.communicate_ns == communicated
    assert exchange.duration_ns - exchange.communicate_ns >= 5 * MS
    assert (spans["decode"].frames, spans["decode"].step) == (range(4, 8), 0)
    # The sums by stage are what they were without a recorder.
    assert clock.seconds[Stage.COMMUNICATE] == pytest.approx(step.communicate_ns / 1e9, abs=1e-4)
    assert clock.seconds[Stage.DENOISE] == pytest.approx((step.duration_ns - step.communicate_ns) / 1e9, abs=1e-4)


class Gpu:
    """A device that works by itself: events are reached when it gets to them."""

    def __init__(self) -> None:
        self.queued = 0.0
        """Milliseconds of its own clock at which it will have done what it was given."""
        self.done = 0.0

    def work(self, milliseconds: float) -> None:
        self.queued += milliseconds

    def catch_up(self) -> None:
        self.done = self.queued

    def event(self, **_: object) -> FakeEvent:
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.at = -1.0

    def record(self) -> None:
        self.at = self._gpu.queued

    def query(self) -> bool:
        return self.at <= self._gpu.done

    def synchronize(self) -> None:
        self._gpu.catch_up()

    def elapsed_time(self, other: FakeEvent) -> float:
        assert self.query(), "asked before the GPU had got there"
        assert other.query(), "asked before the GPU had got there"
        return other.at - self.at


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    monkeypatch.setattr(
        torch.cuda, "Event", type("Event", (FakeEvent,), {"__init__": lambda self, **_: FakeEvent.__init__(self, made)})
    )
    return made


def test_on_a_gpu_spans_are_its_own_time(gpu: Gpu) -> None:
    """The host runs ahead: what it measures in no time at all takes the device seconds."""
    clock = StageClock(torch.device("cuda"))
    clock.recorder.begin()
    began = time.time_ns()
    with clock.measure(Stage.DENOISE, "step", step=1):
        gpu.work(100)
        with clock.measure(Stage.COMMUNICATE, "post") as posted:
            gpu.work(10)
        gpu.work(500)
        with clock.measure(Stage.COMMUNICATE, "wait", since=posted):
            gpu.work(200)
        gpu.work(90)
    assert clock.recorder.take(10) == [], "nothing is known before the device has got there"
    clock.settle()
    spans = {span.name: span for span in clock.recorder.take(10)}
    step = spans["step"]
    assert 0 <= step.start_ns - began < 1000 * MS, "put onto the host's clock where the device was idle"
    assert step.duration_ns == 900 * MS
    assert step.communicate_ns == 210 * MS
    assert spans["post"].start_ns - step.start_ns == 100 * MS
    assert spans["wait"].start_ns - step.start_ns == 610 * MS
    exchange = spans["exchange"]
    assert (exchange.duration_ns, exchange.communicate_ns) == (710 * MS, 210 * MS)
    # The next step is measured from where the device was idle again, on the host's clock.
    threading.Event().wait(0.01)
    again = time.time_ns()
    with clock.measure(Stage.DENOISE, "step", step=2):
        gpu.work(50)
    clock.settle()
    (second,) = clock.recorder.take(10)
    assert 0 <= second.start_ns - again < 1000 * MS
    assert second.step == 2
    assert clock.seconds[Stage.DENOISE] == pytest.approx(0.74)


def test_what_a_gpu_did_for_an_earlier_generation_is_not_told_of_this_one(gpu: Gpu) -> None:
    clock = StageClock(torch.device("cuda"))
    clock.recorder.begin()
    with clock.measure(Stage.DECODE):
        gpu.work(5)
    clock.recorder.end()
    clock.recorder.begin()
    with clock.measure(Stage.TEXT):
        gpu.work(5)
    clock.settle()
    assert [span.lane for span in clock.recorder.take(10)] == [Lane.TEXT]
