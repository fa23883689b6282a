"""Per-frame noise."""

from __future__ import annotations

import pytest
import torch

from tests.support.engine import spec
from vinf_core.diffusion.noise import frame_noise, freenoise_bases, initial_noise
from vinf_core.types import InitialNoise, PromptSegment, TemporalScope

pytestmark = pytest.mark.fast


def test_a_frame_has_its_noise_whoever_draws_it() -> None:
    whole = frame_noise(7, range(10), (4, 8, 8))
    assert torch.equal(whole[6:9], frame_noise(7, range(6, 9), (4, 8, 8)))


def test_frames_and_seeds_differ_and_are_standard_normal() -> None:
    noise = frame_noise(2**63 - 1, range(50), (4, 16, 16))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, frame_noise(1, range(50), (4, 16, 16)))
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01


def test_the_numbers_never_change() -> None:
    """A seed must give the same video in every release, on every machine: pinned values."""
    expected = torch.tensor([-1.4470675, -0.9134207, -0.5155607, 1.8603299])
    torch.testing.assert_close(frame_noise(7, [3], (4,))[0], expected, rtol=0, atol=1e-6)


def test_a_video_starts_from_independent_noise_unless_told_otherwise() -> None:
    assert torch.equal(initial_noise(spec(), range(2, 9), (4, 4, 4), 16), frame_noise(5, range(2, 9), (4, 4, 4)))


def test_freenoise_repeats_the_first_frames_in_blocks() -> None:
    bases = freenoise_bases(7, range(99), (range(99),), 16)
    assert bases[:16] == tuple(range(16))
    for block in range(16, 96, 4):
        assert sorted(bases[block : block + 4]) == sorted(bases[block - 16 : block - 12])
    assert len({bases[block : block + 4] for block in range(16, 96, 16)}) > 1, "every block has an order of its own"
    assert set(bases[96:99]) < set(bases[80:84]), "a block that the video cuts short"


def test_the_order_of_freenoise_never_changes() -> None:
    """A seed must give the same video in every release, on every machine: pinned values."""
    pinned = (0, 3, 1, 2, 5, 7, 6, 4, 11, 8, 9, 10, 14, 13, 15, 12, 3, 1, 2, 0, 6, 7, 5, 4)
    assert freenoise_bases(7, range(16, 40), (range(40),), 16) == pinned
    assert freenoise_bases(8, range(16, 40), (range(40),), 16) != pinned


def test_a_frame_has_its_base_whoever_asks() -> None:
    scenes = (range(30), range(30, 33), range(33, 90))
    whole = freenoise_bases(7, range(90), scenes, 16)
    for clip in (range(17), range(17, 34), range(34, 90), range(89, 90)):
        assert freenoise_bases(7, clip, scenes, 16) == whole[clip.start : clip.stop]


def test_freenoise_begins_anew_at_a_cut() -> None:
    scenes = (range(30), range(30, 33), range(33, 90))
    bases = freenoise_bases(7, range(90), scenes, 16)
    for scene in scenes:
        assert bases[scene.start : scene.stop][:16] == tuple(scene[:16])
        assert all(base in scene[:16] for base in bases[scene.start : scene.stop])


@pytest.mark.parametrize(("trained", "window"), [(24, 24), (18, 18), (4, 4), (1, 4)])
def test_the_window_is_the_trained_length(trained: int, window: int) -> None:
    bases = freenoise_bases(7, range(60), (range(60),), trained)
    assert bases[:window] == tuple(range(window))
    assert sorted(bases[window : window + 4]) == [0, 1, 2, 3]
    assert set(bases) == set(range(window))


def test_freenoise_is_standard_normal_and_equal_where_the_base_is() -> None:
    scope = TemporalScope(local_window_frames=4, global_frames=3, initial_noise=InitialNoise.FREENOISE)
    what = spec(frame_count=96, scope=scope, segments=(PromptSegment(start_frame=50, prompt="the sea", cut=True),))
    noise = initial_noise(what, range(96), (4, 16, 16), 16)
    bases = freenoise_bases(what.seed, range(96), what.scenes, 16)
    assert torch.equal(noise, frame_noise(what.seed, bases, (4, 16, 16)))
    assert torch.equal(noise[40:60], initial_noise(what, range(40, 60), (4, 16, 16), 16))
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    assert len(torch.unique(noise.flatten(1), dim=0)) == 32, "16 frames' noise a scene"


def test_a_long_video_has_its_bases_at_once() -> None:
    bases = freenoise_bases(7, [65_535], (range(65_536),), 16)
    assert bases[0] in range(16)
