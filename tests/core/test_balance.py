"""Clip lengths by weight and by measured speed."""

from __future__ import annotations

import pytest
import torch

from tests.support.engine import final_latents, spec
from tests.support.ranks import RankPool
from vinf_core.context.partition import partition
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.balance import (
    AskedWeights,
    RankWeights,
    SpeedMeter,
    choose_clips,
    settle_speeds,
    settle_weights,
)
from vinf_core.errors import InvalidSpecError
from vinf_core.events import StageClock
from vinf_core.types import Stage


@pytest.mark.fast
@pytest.mark.parametrize(
    ("frames", "weights", "expected"),
    [
        (96, [2, 1], [64, 32]),
        (10, [1, 1, 1], [4, 3, 3]),
        (10, [1, 2, 1], [3, 5, 2]),
        (7, [0.1, 0.1, 0.1], [3, 2, 2]),
        (100, [1, 1000], [0, 100]),
        (1, [1, 1, 5], [0, 0, 1]),
    ],
)
def test_clips_follow_the_weights(frames: int, weights: list[float], expected: list[int]) -> None:
    assert [clip.count for clip in partition(frames, weights)] == expected


@pytest.mark.fast
@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_no_positive_number_is_refused(weight: float) -> None:
    with pytest.raises(InvalidSpecError, match=r"weights\[1\]"):
        partition(10, [1, weight])


@pytest.mark.fast
def test_about_the_same_speed_is_the_same_speed() -> None:
    assert settle_speeds([100, 91]) == [95.5, 95.5]
    assert settle_speeds([100, 50, 95]) == [97.5, 50, 97.5]
    assert settle_speeds([100, 89]) == [100, 89]
    assert settle_speeds([100, 0]) == [1, 1], "one rank had no frames yet: nothing is known about it"


@pytest.mark.fast
def test_a_speed_leaves_first_steps_and_empty_clips_out() -> None:
    clock = StageClock(torch.device("cpu"))
    meter = SpeedMeter(clock)
    for values, seconds in ((100, (9.0, 2.0, 2.0)), (100, (9.0, 1.0, 3.0)), (0, (9.0, 1.0))):
        meter.begin_generation()
        for second in seconds:
            clock.seconds[Stage.DENOISE] += second
            clock.seconds[Stage.COMMUNICATE] += 5
            meter.step_ended(values)
    assert meter.speed == 50
    assert meter.steps == (8, 36.0), "all of them, and no communication"


def choose(topology: Topology, groups: Groups, weights: RankWeights, speeds: list[int]) -> list[int]:
    control = ControlPlane(topology, groups.control)
    return [clip.count for clip in choose_clips(weights, 96, speed=speeds[topology.rank], control=control)]


@pytest.mark.process
@pytest.mark.parametrize(
    ("weights", "speeds", "expected"),
    [
        ("measured", [1000, 500], [64, 32]),
        ("measured", [1000, 950], [48, 48]),
        ("measured", [0, 0], [48, 48]),
        ("even", [1000, 500], [48, 48]),
        ((2.0, 1.0), [500, 1000], [64, 32]),
    ],
)
def test_every_rank_comes_to_the_same_clips(
    rank_pool: RankPool, weights: RankWeights, speeds: list[int], expected: list[int]
) -> None:
    assert rank_pool.run(2, choose, weights, speeds) == [expected, expected]


def settle(topology: Topology, groups: Groups, asked: AskedWeights, devices: list[str]) -> RankWeights:
    control = ControlPlane(topology, groups.control)
    return settle_weights(asked, device_name=devices[topology.rank], control=control)


@pytest.mark.fast
@pytest.mark.parametrize("asked", ["measured", "even", (2.0,)])
def test_what_was_asked_for_stays(asked: AskedWeights) -> None:
    assert settle(Topology.single(), Groups(control=None, data=None), asked, ["a"]) == asked


@pytest.mark.process
@pytest.mark.parametrize(
    ("devices", "expected"), [(["H100", "H100", "H100"], "even"), (["H100", "H100", "A100"], "measured")]
)
def test_auto_measures_only_devices_that_differ(rank_pool: RankPool, devices: list[str], expected: str) -> None:
    assert rank_pool.run(3, settle, "auto", devices) == [expected] * 3


@pytest.mark.process
def test_weighted_clips_give_the_same_video(rank_pool: RankPool) -> None:
    what = spec(frame_count=24, step_count=2)
    expected = final_latents(Topology.single(), Groups(control=None, data=None), what, [24], torch.float32)
    counts = [clip.count for clip in partition(24, [2, 1])]
    assert counts == [16, 8]
    got = torch.cat(rank_pool.run(2, final_latents, what, counts, torch.float32))
    assert float((got - expected).norm() / expected.norm()) < 1e-4
