"""Turns, ratios and spreads, on a clock that the test turns."""

from __future__ import annotations

import pytest

from benchmarks.timing import Spread, ratio, take_turns

pytestmark = pytest.mark.fast


def test_spread_of_known_samples() -> None:
    spread = Spread.of([float(value) for value in range(11)])
    assert (spread.median, spread.low, spread.high) == (5.0, 1.0, 9.0)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)
    assert spread.scaled(10) == Spread(50.0, 10.0, 90.0)


def test_contenders_take_turns_and_the_first_turn_does_not_count() -> None:
    ran: list[str] = []
    turns: list[int] = []
    clock = {"fast": 1.0, "slow": 3.0}

    def watch(work: object) -> float:
        work()  # type: ignore[operator]
        return clock[ran[-1]] * (100 if turns[-1] == 0 else 1)

    seconds = take_turns(
        {name: lambda name=name: ran.append(name) for name in clock}, repeats=2, watch=watch, on_turn=turns.append
    )
    assert turns == [0, 1, 2]
    assert ran == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert seconds == {"fast": [1.0, 1.0], "slow": [3.0, 3.0]}


def test_a_ratio_is_taken_within_each_turn() -> None:
    # The machine was ten times slower in the second turn; it does not show.
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == Spread(2.0, 2.0, 2.0)
