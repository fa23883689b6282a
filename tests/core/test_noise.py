"""Per-frame noise."""

from __future__ import annotations

import pytest
import torch

from vinf_core.diffusion.noise import frame_noise

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
