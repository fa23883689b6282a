"""A story is the same video on any number of ranks: prompts change inside clips, transitions cross their boundaries."""

from __future__ import annotations

import pytest
import torch

from tests.support.engine import final_latents, spec
from tests.support.ranks import RankPool
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.types import PromptSegment, Solver

pytestmark = pytest.mark.process

ALONE = (Topology.single(), Groups(control=None, data=None))
STORY = (
    PromptSegment(start_frame=5, prompt="a yellow star over the city"),
    PromptSegment(start_frame=18, prompt="a purple box over the meadow", transition_frames=16),
    PromptSegment(start_frame=40, prompt="a white star over the sea"),
)


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def test_a_story_is_the_same_on_every_partition(rank_pool: RankPool) -> None:
    story = spec(frame_count=47, solver=Solver.DDIM, segments=STORY)
    expected = final_latents(*ALONE, story, [47], torch.float64)
    plain = final_latents(*ALONE, spec(frame_count=47, solver=Solver.DDIM), [47], torch.float64)
    assert relative(plain, expected) > 1e-4, "the test has no power: the segments change nothing"
    for counts in ([24, 23], [10, 21, 16], [0, 46, 1, 0]):
        parts = rank_pool.run(len(counts), final_latents, story, counts, torch.float64)
        error = relative(torch.cat(parts), expected)
        assert error < 1e-12, f"clips {counts}: relative L2 error {error:.1e}, expected below 1e-12"
