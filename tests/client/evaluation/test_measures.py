"""Drift, flicker, motion and repetition on videos whose answers are known."""

import numpy as np
import pytest

from tests.client.evaluation.videos import gradient, walk
from vinf_client.evaluation import assess, observe
from vinf_client.evaluation.distances import structure_distance
from vinf_client.evaluation.drift import drift
from vinf_client.evaluation.motion import follow
from vinf_client.evaluation.repetition import repetition

pytestmark = pytest.mark.fast


def test_a_fading_video_has_the_slope_it_fades_by():
    fade = np.linspace(200, 100, 51)[:, None, None, None] * np.ones((1, 16, 16, 3))
    found = assess(observe(np.rint(fade).astype(np.uint8))).drift["luminance"]
    assert found.slope == pytest.approx(-200, abs=1)
    assert found.start == pytest.approx(200, abs=1)
    assert found.change == pytest.approx(-0.5, abs=0.01)


def test_contrast_saturation_and_sharpness_fall_where_they_are_taken_away():
    video = gradient(40).astype(np.float64)
    share = np.linspace(1.0, 0.5, 40)[:, None, None, None]
    grey = video.mean(axis=3, keepdims=True)
    paler = assess(observe(np.rint(grey + (video - grey) * share).astype(np.uint8))).drift
    assert paler["saturation"].change == pytest.approx(-0.45, abs=0.08)
    assert abs(paler["luminance"].change) < 0.05
    flat = video.mean(axis=(1, 2), keepdims=True)
    flatter = assess(observe(np.rint(flat + (video - flat) * share).astype(np.uint8))).drift
    assert flatter["contrast"].change == pytest.approx(-0.5, abs=0.02)
    assert flatter["sharpness"].change == pytest.approx(-0.75, abs=0.15)
    assert abs(assess(observe(gradient(40))).drift["contrast"].change) < 0.05


def test_a_black_video_has_no_share_to_change_by():
    found = assess(observe(np.zeros((4, 8, 8, 3), np.uint8))).drift["luminance"]
    assert (found.slope, found.change) == (0.0, None)


def test_flicker_is_vbenchs():
    blink = np.zeros((5, 8, 8, 3), np.uint8)
    blink[1::2] = 51
    assert assess(observe(blink)).flicker == pytest.approx((255 - 51) / 255)
    assert assess(observe(np.full((5, 8, 8, 3), 9, np.uint8))).flicker == 1.0


@pytest.mark.parametrize(("down", "right"), [(0, 3), (-2, 0), (3, -4)])
def test_motion_is_how_far_the_picture_moved(down, right):
    rng = np.random.default_rng(3)
    before = rng.uniform(0, 255, size=(64, 64)).astype(np.float32)
    after = np.roll(before, (down, right), axis=(0, 1))
    moved, left = follow(before, after)
    # Blocks at the edge came from outside and may fit anywhere.
    assert moved == pytest.approx(np.hypot(down, right), rel=0.3)
    assert left < np.abs(after - before).mean() / 3


def test_motion_counts_the_pixels_of_large_pictures():
    rng = np.random.default_rng(4)
    before = np.kron(rng.uniform(0, 255, size=(64, 64)), np.ones((8, 8))).astype(np.float32)
    moved, _ = follow(before, np.roll(before, 16, axis=1))
    assert moved == pytest.approx(16, rel=0.1)


def test_what_stands_still_does_not_move_even_with_grain():
    rng = np.random.default_rng(5)
    plane = np.full((64, 64), 100, np.float32)
    moved, _ = follow(plane + rng.normal(0, 2, plane.shape), plane + rng.normal(0, 2, plane.shape))
    assert moved == 0.0


def test_motion_across_a_cut_does_not_count():
    rng = np.random.default_rng(6)
    video = np.repeat(rng.integers(0, 255, size=(2, 32, 32, 3), dtype=np.uint8), 10, axis=0)
    assert assess(observe(video)).fast_motion > 0
    assert assess(observe(video), cuts=[10]).fast_motion == 0.0


def test_cuts_are_neither_flicker_nor_drift():
    """A bright scene between darker ones that all fade alike: only the fading counts."""
    levels = np.concatenate([np.linspace(start, start - 19, 20) for start in (100, 240, 30)]).round()
    video = np.ones((60, 16, 16, 3), np.uint8) * levels.astype(np.uint8)[:, None, None, None]
    seen = observe(video)
    found = assess(seen, cuts=[20, 40])
    assert found.flicker == pytest.approx(254 / 255)
    assert found.drift["luminance"].slope == pytest.approx(-100, abs=1e-4)
    assert found.drift["luminance"].start == pytest.approx(100, abs=1e-4)
    assert found.drift["luminance"].change == pytest.approx(-0.57, abs=1e-4)
    untold = assess(seen)
    assert untold.flicker < 0.99
    assert untold.drift["luminance"].slope < -150, "the test has power"
    assert assess(seen, cuts=range(1, 60)).drift["luminance"].slope == 0.0, "every frame is a scene"


def test_a_short_scene_hardly_counts_for_the_drift():
    values = np.concatenate([np.full(50, 10.0), [80.0, 90.0]])
    assert abs(drift(values, [50]).slope) < 0.1
    assert drift(values[50:]).slope == pytest.approx(1000)


def test_a_loop_has_its_period_found():
    video = np.concatenate([walk(24, 8)] * 4)
    found = assess(observe(video)).repetition
    assert found.period == 24
    assert found.strength == pytest.approx(1.0, abs=0.02)


def test_a_swing_has_its_period_found():
    found = assess(observe(gradient(96, pace=1.5))).repetition  # a wave of 24 pixels
    assert found.period == 16
    assert found.strength > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_chance_does_not_repeat(seed):
    assert assess(observe(walk(96, seed))).repetition.period is None


def test_what_stands_still_or_fades_does_not_repeat():
    assert repetition(np.full((32, 6), 4.0)).period is None
    assert repetition(np.arange(32.0)[:, None] * np.ones(6)).period is None


def test_structure_is_one_minus_ssim():
    """Of constants SSIM is (2ab + C1) / (a² + b² + C1)."""
    black, grey = np.zeros((32, 32), np.float32), np.full((32, 32), 100, np.float32)
    assert structure_distance(grey, grey) == pytest.approx(0.0, abs=1e-12)
    c1 = (0.01 * 255) ** 2
    assert structure_distance(black, grey) == pytest.approx(1 - c1 / (100**2 + c1))
    assert structure_distance(np.zeros((3, 5), np.float32), np.zeros((3, 5), np.float32)) == pytest.approx(0.0)


@pytest.mark.parametrize(("frames", "told"), [
    ([], "0 frames are not a video"),
    ([np.zeros((8, 8, 3), np.uint8)], "1 frames are not a video"),
    ([np.zeros((8, 8, 3), np.float32)] * 2, "frame 0: float32"),
    ([np.zeros((8, 8), np.uint8)] * 2, "frame 0: uint8"),
    ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], "frame 1: .* is another size"),
])  # fmt: skip
def test_what_is_no_video(frames, told):
    with pytest.raises(ValueError, match=told):
        observe(frames)


def test_two_frames_are_a_video():
    found = assess(observe(walk(2, 1)), boundaries=[1])
    assert found.seams["pixels"].ratio is None, "there is nothing nearby"
    assert found.seams["pixels"].count == 1
