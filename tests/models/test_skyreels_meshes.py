"""SkyReels-V1 on every shape of mesh that four ranks have, through the generator: the latents of one rank."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models.test_skyreels import ALONE, image, wanted
from tests.support.engine import Recorder
from tests.support.mesh import meshed
from tests.support.ranks import RankPool
from tests.support.skyreels import Saved, final_latents, save_hunyuan, save_skyreels
from vinf_core.context.partition import clips_of
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.events import StageClock
from vinf_core.types import GenerationSpec, TemporalScope

pytestmark = pytest.mark.process

LONG = wanted(
    frame_count=129, step_count=2, scope=TemporalScope(local_window_frames=24, global_frames=12), images=(image(),)
)
"""33 latent frames, more than it was trained with."""

WINDOWS = replace(LONG, scope=TemporalScope(local_window_frames=24, global_frames=0, overlap_frames=16))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Saved:
    folder, base = tmp_path_factory.mktemp("i2v"), tmp_path_factory.mktemp("hunyuan")
    save_skyreels(folder, takes_image=True)
    save_hunyuan(base)
    return Saved(folder, base, torch.float64)


def mesh_latents(
    topology: Topology, groups: Groups, saved: Saved, what: GenerationSpec, counts: list[int], cfg: int, context: int
) -> torch.Tensor:
    """Final latents of this rank's clip; ``counts`` are frames, one a clip."""
    placed, made = meshed(topology, groups, cfg=cfg, context=context)
    clock = StageClock(topology.device)
    generator = Generator(saved.load(), placed, Axes.build(placed, made, clock), clock)
    layout = generator.plan(what, clips_of(counts))
    return generator.latents("g", what, layout, Recorder(), ControlPlane(placed, groups.control).agree).clone()


@pytest.mark.parametrize("what", [LONG, WINDOWS], ids=["dual scope", "windows"])
def test_every_mesh_of_four_ranks_gives_the_latents_of_one(
    rank_pool: RankPool, saved: Saved, what: GenerationSpec
) -> None:
    expected, _ = final_latents(*ALONE, saved, what, [129])
    for counts, cfg, context in (([77, 52], 2, 1), ([61, 68], 1, 2), ([129], 2, 2), ([129], 1, 4), ([129, 0], 1, 2)):
        parts = rank_pool.run(4, mesh_latents, saved, what, counts, cfg, context)
        size = cfg * context
        for first in range(0, 4, size):
            clip = parts[first : first + size]
            assert all(torch.equal(part, clip[0]) for part in clip), "ranks of a clip hold the same latents"
        error = float((torch.cat(parts[::size]) - expected).norm() / expected.norm())
        assert error < 1e-12, f"clips {counts}, cfg {cfg}, context {context}: relative L2 error {error:.1e}"
