"""SkyReels-V1 on several ranks, through the generator: the video of one rank, and the text encoded on one of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.test_skyreels import ALONE, image, wanted
from tests.support.ranks import RankPool
from tests.support.skyreels import Saved, final_latents, save_hunyuan, save_skyreels, whole_video
from vinf_core.types import GenerationSpec, TemporalScope

pytestmark = pytest.mark.process

LONG = wanted(
    frame_count=129, step_count=2, scope=TemporalScope(local_window_frames=24, global_frames=12), images=(image(),)
)
"""33 latent frames, more than it was trained with."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Saved:
    folder, base = tmp_path_factory.mktemp("i2v"), tmp_path_factory.mktemp("hunyuan")
    save_skyreels(folder, takes_image=True)
    save_hunyuan(base)
    return Saved(folder, base)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=["float64", "float32"]
)
def test_a_long_video_does_not_depend_on_its_clips(
    rank_pool: RankPool, saved: Saved, dtype: torch.dtype, tolerance: float
) -> None:
    loaded = Saved(saved.folder, saved.base, dtype)
    expected, _ = final_latents(*ALONE, loaded, LONG, [129])
    # In frames: the first clip's first latent frame is one of them, all others are four.
    for counts, cfg, context in (
        ([77, 52], 1, 1),
        ([61, 0, 68], 1, 1),
        ([1, 128], 2, 1),
        ([73, 56], 1, 2),
        ([129], 2, 2),
    ):
        parts = rank_pool.run(len(counts) * cfg * context, final_latents, loaded, LONG, counts, cfg, context)
        got = torch.cat([latents for latents, _ in parts[:: cfg * context]])
        error = float((got - expected).norm() / expected.norm())
        assert error < tolerance, f"clips {counts}, mesh {cfg} x {context}: relative L2 error {error:.1e}"


def test_overlapping_windows_each_have_the_image_where_frame_0_is(rank_pool: RankPool, saved: Saved) -> None:
    scope = TemporalScope(local_window_frames=24, global_frames=0, overlap_frames=12)
    what, loaded = replace(LONG, scope=scope), Saved(saved.folder, saved.base, torch.float64)
    expected, _ = final_latents(*ALONE, loaded, what, [129])
    parts = rank_pool.run(2, final_latents, loaded, what, [77, 52])
    got = torch.cat([latents for latents, _ in parts])
    assert float((got - expected).norm() / expected.norm()) < 1e-12


def test_a_checkpoint_goes_on_to_the_bit_and_on_other_clips(rank_pool: RankPool, saved: Saved) -> None:
    what = wanted(frame_count=45, images=(image(),))
    begun = rank_pool.run(2, final_latents, saved, what, [21, 24])
    expected = torch.cat([latents for latents, _ in begun])
    records = {step: begun[0][1][step] | begun[1][1][step] for step in begun[0][1]}
    assert sorted(records) == [1, 2, 3]
    for step in records:
        for counts in ([21, 24], [45], [1, 20, 24]):
            parts = rank_pool.run(len(counts), final_latents, saved, what, counts, 1, 1, records, step)
            got = torch.cat([latents for latents, _ in parts])
            assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4), f"clips {counts} after step {step}"
            if counts == [21, 24] or step == 3:
                assert torch.equal(got, expected), f"clips {counts} after step {step}: bits differ"


@pytest.mark.parametrize("world_size", [2, 3])
def test_pictures_and_where_text_is_encoded(rank_pool: RankPool, saved: Saved, world_size: int) -> None:
    what: GenerationSpec = wanted(frame_count=45, step_count=1, images=(image(),))
    alone, _ = whole_video(*ALONE, saved, what)
    made = rank_pool.run(world_size, whole_video, saved, what)
    assert [loaded for _, loaded in made] == [rank == 0 for rank in range(world_size)]
    together = {index: pixels for frames, _ in made for index, pixels in frames.items()}
    assert sorted(together) == sorted(alone) == list(range(45))
    assert all(frames for frames, _ in made), "every rank decodes"
    for index, pixels in alone.items():
        # A level of 255 may fall to either side where the latents differ in their last bits.
        difference = np.abs(together[index].astype(int) - pixels.astype(int)).max()
        assert difference <= 1, f"frame {index}"
