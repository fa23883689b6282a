"""The seam measures rise on planted seams and are near 1 without; their p is uniform where nothing is to be found."""

import numpy as np
import pytest

from tests.client.evaluation.videos import gradient, planted, walk
from vinf_client.evaluation import DISTANCES, assess, observe, pool
from vinf_client.evaluation.seams import MOST, Steps, seam

pytestmark = pytest.mark.fast

BOUNDARIES = [24, 48, 72]


@pytest.fixture(scope="module")
def good(steady):
    """The steady video, looked at once."""
    return observe(steady)


@pytest.fixture(scope="module")
def broken(steady):
    """The same with jumps at the boundaries, looked at once."""
    return observe(planted(steady, BOUNDARIES))


@pytest.fixture(scope="module")
def steady():
    return gradient(96, pace=0.5, side=32)


def test_a_steady_motion_has_no_seams(good):
    found = assess(good, boundaries=BOUNDARIES)
    for name in DISTANCES:
        slack = 0.6 if name in ("detail", "colour") else 0.1  # of these there is little but the grain
        assert found.seams[name].ratio == pytest.approx(1.0, abs=slack), name
        assert found.seams[name].p > 0.05, name
        assert found.seams[name].count == 3


@pytest.mark.parametrize("name", ["pixels", "compensated", "colour", "acceleration"])
def test_a_planted_jump_is_found(broken, name):
    found = assess(broken, boundaries=BOUNDARIES).seams[name]
    assert found.ratio > 1.3
    assert found.p == pytest.approx(1 / 24)


def test_the_place_matters(steady):
    """A jump that is not at a boundary makes no seam."""
    found = assess(observe(planted(steady, [12, 36, 60])), boundaries=BOUNDARIES).seams["pixels"]
    assert found.ratio == pytest.approx(1.0, abs=0.2)
    assert found.p > 0.05


def test_blur_at_a_boundary_is_found_in_the_detail(steady):
    soft = steady.copy()
    blurred = steady[48:72].astype(np.float64)
    for axis in (1, 2):
        blurred = (blurred + np.roll(blurred, 1, axis) + np.roll(blurred, -1, axis)) / 3
    soft[48:72] = np.rint(blurred)
    found = assess(observe(soft), boundaries=[48, 72]).seams
    assert found["detail"].ratio > 5
    assert found["detail"].p == pytest.approx(1 / 24)
    assert found["structure"].ratio > 1


def test_a_pattern_that_changes_is_found_in_the_structure():
    video = gradient(48, pace=0.25)
    video[24:] = video[24:].transpose(0, 2, 1, 3)
    found = assess(observe(video), boundaries=[24]).seams["structure"]
    assert found.ratio > 3
    assert found.p == pytest.approx(1 / 24)


def test_a_linear_fade_cancels_in_the_acceleration():
    video = np.broadcast_to(np.arange(40, 104, dtype=np.uint8)[:, None, None, None], (64, 16, 16, 3))
    seen = observe(video)
    assert seen.distances["pixels"] == pytest.approx(1.0)
    assert seen.distances["acceleration"] == pytest.approx(0.0)
    jumped = video.copy()
    jumped[32:] += 20
    found = assess(observe(jumped), boundaries=[32]).seams
    assert found["acceleration"].ratio == MOST, "nothing else accelerates"
    assert found["acceleration"].across == pytest.approx(20.0)
    assert found["pixels"].ratio == pytest.approx(21.0)


def test_what_stands_still_has_no_ratio():
    found = assess(observe(np.full((48, 8, 8, 3), 90, np.uint8)), boundaries=[24]).seams["pixels"]
    assert (found.ratio, found.p, found.across) == (None, None, 0.0)


def test_cuts_are_no_seams(steady):
    jumps = planted(steady, BOUNDARIES, by=60)
    told = assess(observe(jumps), boundaries=BOUNDARIES, cuts=[48])
    assert told.boundaries == (24, 72)
    nearby = assess(observe(planted(steady, [26], by=60)), boundaries=[24], cuts=[26])
    for name in ("pixels", "acceleration", "colour"):
        assert nearby.seams[name].ratio == pytest.approx(1.0, abs=0.8), f"{name} feels the cut"
        assert assess(nearby.observation, boundaries=[26]).seams[name].ratio > 3, "the test has power"


def test_p_is_uniform_where_there_is_nothing_to_find():
    """Over 200 random videos, alone and pooled by five; a test that is uniform has at most a share p of p's below p."""
    videos = [
        Steps(np.abs(np.diff(walk(96, seed).astype(np.int64), axis=0)).mean(axis=(1, 2, 3)), BOUNDARIES)
        for seed in range(60)
    ]
    rng = np.random.default_rng(1)
    # Steps of the same kind without the pictures: many more of them in the same time.
    videos += [Steps(rng.gamma(4.0, 1.0, size=95), BOUNDARIES) for _ in range(240)]
    alone = np.array([seam([video]).p for video in videos])
    pooled = np.array([seam(videos[place : place + 5]).p for place in range(0, 300, 5)])
    for found, slack in ((alone, 0.07), (pooled, 0.17)):
        assert found.mean() == pytest.approx(0.52, abs=slack)
        for level in (0.1, 0.25, 0.5, 0.75):
            assert (found <= level).mean() == pytest.approx(level, abs=slack), level
    ratios = np.array([seam([video]).ratio for video in videos])
    assert np.median(ratios) == pytest.approx(1.05, abs=0.1)


def test_pooling_finds_what_one_video_hides():
    """Seams too weak for one video's few boundaries are found by the boundaries of many."""
    rng = np.random.default_rng(2)
    videos = []
    for _ in range(24):
        steps = rng.gamma(4.0, 1.0, size=95)
        steps[[23, 47, 71]] *= 1.4
        videos.append(Steps(steps, BOUNDARIES))
    assert np.median([seam([video]).p for video in videos]) > 0.05
    together = seam(videos)
    assert together.p < 0.005
    assert together.ratio == pytest.approx(1.5, abs=0.15)
    assert together.count == 72


def test_a_lively_video_does_not_drown_the_others():
    calm, lively = np.full(47, 1.0), np.full(47, 100.0)
    calm[23] = 5.0
    found = seam([Steps(calm, [24]), Steps(lively, [24])])
    assert found.ratio == pytest.approx(3.0)


def test_a_lively_stretch_does_not_drown_a_calm_one():
    """Of a video whose pace changes: no seam is no seam, and one in either stretch is found."""
    even = np.concatenate([np.full(48, 1.0), np.full(47, 10.0)])
    assert seam([Steps(even, [24, 72])]).ratio == pytest.approx(1.0)
    for place, usual in ((23, 1.0), (71, 10.0)):
        broken = even.copy()
        broken[place] = 5.0 * usual
        found = seam([Steps(broken, [24, 72])])
        assert found.ratio == pytest.approx(3.0)
        assert found.p == pytest.approx(1 / 24)


def test_a_still_video_that_jumps_does_not_drown_the_others():
    """It stands still inside its clips, so that its steps are endlessly larger than the usual ones."""
    still = np.zeros(95)
    still[[23, 47, 71]] = 5.0
    alone = seam([Steps(still, BOUNDARIES)])
    assert (alone.ratio, alone.p) == (MOST, pytest.approx(1 / 24))
    rng = np.random.default_rng(3)
    even = [Steps(rng.gamma(4.0, 1.0, size=95), BOUNDARIES) for _ in range(9)]
    broken = [
        Steps(np.where(np.isin(np.arange(95), [23, 47, 71]), 3.0, 1.0) * video.values, BOUNDARIES) for video in even
    ]
    found = [seam([Steps(still, BOUNDARIES), *videos]) for videos in (even, broken)]
    assert MOST / 10 < found[0].ratio < found[1].ratio < MOST / 5
    assert found[1].p < 0.005 < found[0].p, "the others still tell"


def test_pooled_assessments(good, broken):
    bad, well = assess(broken, boundaries=BOUNDARIES), assess(good, boundaries=BOUNDARIES)
    unknown = assess(good)
    together = pool([bad, well, unknown])
    assert together.videos == 3
    assert set(together.seams) == set(DISTANCES)
    assert together.seams["colour"].count == 6
    assert well.seams["colour"].ratio < together.seams["colour"].ratio < bad.seams["colour"].ratio
    assert pool([unknown]).seams == {}
    with pytest.raises(ValueError, match="no videos"):
        pool([])


@pytest.mark.parametrize(("boundaries", "cuts", "window", "told"), [
    ([0], [], 8, r"boundaries: 0 is not in \[1, 95\]"),
    ([96], [], 8, r"boundaries: 96 is not in \[1, 95\]"),
    ([24], [-1], 8, r"cuts: -1 is not in \[1, 95\]"),
    ([24], [], 0, "window: 0 is less than 1"),
])  # fmt: skip
def test_mistakes(good, boundaries, cuts, window, told):
    with pytest.raises(ValueError, match=told):
        assess(good, boundaries=boundaries, cuts=cuts, window=window)
