"""When the ranks will be free."""

import pytest

from tests.server.fakes import normalised_spec
from vinf_server.front.generations.estimate import Estimate

pytestmark = pytest.mark.fast


class Running:
    def __init__(self, completed_steps=0, **fields):
        self.resolved_spec = normalised_spec(**fields)
        self.completed_steps = completed_steps


def test_from_the_steps_of_the_running_one_when_nothing_else_is_known():
    now = [0.0]
    estimate = Estimate(clock=lambda: now[0])
    assert estimate.remaining_s() == 1.0
    assert estimate.expected_s() is None, "the ranks are free"
    running = Running(inference_step_count=10)
    estimate.started(running)
    assert estimate.remaining_s() == 5.0
    assert estimate.expected_s() is None, "nothing is known yet"
    now[0], running.completed_steps = 50.0, 1  # with the text before it
    estimate.step_ended()
    assert estimate.remaining_s() == 5.0, "one step is no measure"
    now[0], running.completed_steps = 56.0, 4
    estimate.step_ended()
    assert estimate.remaining_s() == estimate.expected_s() == pytest.approx(12.0)


def test_from_earlier_ones_in_proportion_to_the_work():
    now = [0.0]
    estimate = Estimate(clock=lambda: now[0])
    estimate.started(Running(inference_step_count=10, frame_count=16))
    now[0] = 20.0
    estimate.stopped(completed=True)
    estimate.started(Running(inference_step_count=10, frame_count=64))
    assert estimate.remaining_s() == pytest.approx(80.0)
    now[0] = 50.0
    assert estimate.remaining_s() == pytest.approx(50.0)
    now[0] = 1000.0
    assert estimate.remaining_s() == 1.0


def test_a_resumed_one_has_only_the_rest_to_do():
    now = [0.0]
    estimate = Estimate(clock=lambda: now[0])
    running = Running(inference_step_count=10, completed_steps=6)
    estimate.started(running)
    now[0], running.completed_steps = 20.0, 7
    estimate.step_ended()
    now[0], running.completed_steps = 26.0, 9
    assert estimate.remaining_s() == pytest.approx(3.0)


def test_one_that_was_cut_short_teaches_nothing():
    now = [0.0]
    estimate = Estimate(clock=lambda: now[0])
    estimate.started(Running())
    now[0] = 0.5
    estimate.stopped(completed=False)
    estimate.started(Running())
    assert estimate.remaining_s() == 5.0
