"""The tracker against rendered truth, against blur, and against videos it must fail."""

import numpy as np
import pytest

from training.sprites import tracker, world

pytestmark = pytest.mark.fast

SPECS = world.all_specs()


def blurred(frames, reach=2):
    """Mean over a square, a rough stand-in for a small autoencoder."""
    side = 2 * reach + 1
    padded = np.pad(frames.astype(float), ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = sum(padded[:, dy : dy + 64, dx : dx + 64] for dy in range(side) for dx in range(side))
    return np.rint(total / side**2).astype(np.uint8)


def shares(videos):
    scores = [tracker.score(frames, spec) for frames, spec in videos]
    return np.array([[s.visible, s.colour, s.background, s.motion] for s in scores]).mean(axis=0)


def test_rendered_truth_scores_full_marks():
    videos = [(world.render(spec, 500 + n), spec) for n, spec in enumerate(SPECS[::2])]
    assert shares(videos).min() >= 0.99


def test_blur_is_borne():
    videos = [(blurred(world.render(spec, 900 + n)), spec) for n, spec in enumerate(SPECS[::6])]
    assert shares(videos).min() >= 0.97


def test_centres_are_true_to_a_pixel():
    for n, spec in enumerate(SPECS[::12]):
        seen = tracker.track(world.render(spec, n)).centres
        assert np.abs(seen - world.centres(spec, n)).max() < 1.5


def test_every_window_of_a_long_video_shows_its_motion():
    for motion in world.MOTIONS:
        centres = tracker.track(world.render(world.Spec("ball", "red", motion, "sea"), 1, frames=96)).centres
        windows = [tracker.classify_motion(centres[n : n + 16]) for n in range(0, 81, 5)]
        assert set(windows) == {motion}


def test_wrong_captions_are_marked_wrong():
    video = world.render(world.Spec("ball", "red", "bouncing", "sea"), 1)
    score = tracker.score(video, world.Spec("ball", "white", "sliding", "city"))
    assert (score.visible, score.colour, score.background, score.motion) == (1.0, 0.0, 0.0, False)


@pytest.mark.parametrize("background", world.BACKGROUNDS)
def test_no_sprite_is_seen_where_there_is_none(background):
    rng = np.random.default_rng(0)
    empty = np.stack([world.BACKDROPS[background](rng) for _ in range(16)]).clip(0, 255).astype(np.uint8)
    seen = tracker.track(empty)
    assert not seen.visible.any()
    assert seen.motion is None
    assert set(seen.backgrounds) == {background}


def test_a_wrong_array_is_refused():
    with pytest.raises(ValueError, match="expected uint8"):
        tracker.track(np.zeros((2, 32, 32, 3), dtype=np.uint8))


def test_seams_of_one_endless_video_pass():
    videos = [(tracker.track(world.render(spec, 5, frames=48)).centres, [12, 24, 36]) for spec in SPECS[5::24]]
    assert tracker.pooled_seam_report(videos).ok


def test_seams_of_independent_clips_fail():
    videos = []
    for spec in SPECS[5::24]:
        clips = [world.render(spec, seed, frames=12) for seed in range(4)]
        videos.append((tracker.track(np.concatenate(clips)).centres, [12, 24, 36]))
    report = tracker.pooled_seam_report(videos)
    assert not report.ok
    assert report.across > 2.0 * report.inside


def test_a_seam_report_wants_a_boundary():
    with pytest.raises(ValueError, match="no boundary"):
        tracker.seam_report(np.zeros((8, 2), dtype=np.float32), [])
