"""Four times the trained length: seams of dual scope and overlapping windows beside clips generated one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.easyanimate import save_easyanimate
from tests.support.engine import Recorder
from tests.support.skyreels import save_hunyuan, save_skyreels
from vinf_client.evaluation.seams import Steps, seam
from vinf_core.context.joint_plan import JointPlan
from vinf_core.diffusion.fusion import OverlapFusion
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.events import StageClock
from vinf_core.models.locate import ModelSource
from vinf_core.models.registry import load_model
from vinf_core.types import GenerationSpec, Solver, TemporalScope

pytestmark = pytest.mark.fast

TRAINED = 17
"""Frames; 5 latent frames."""
POSITIONS = 5
FRAMES = 4 * (4 * POSITIONS - 1) + 1
"""Four clips of the trained length: 20 latent frames, the first of one frame and the others of four."""
SEEDS = (1, 2, 3)

DUAL = TemporalScope(local_window_frames=16, global_frames=8)
WINDOWS = TemporalScope(local_window_frames=0, global_frames=0, overlap_frames=8)


def skyreels(folder: Path) -> ModelSource:
    save_skyreels(folder / "model", native={"width": 64, "height": 64, "frame_count": TRAINED})
    save_hunyuan(folder / "base")
    return ModelSource(model=str(folder / "model"), base=str(folder / "base"), offline=True)


def easyanimate(folder: Path) -> ModelSource:
    save_easyanimate(folder)
    facts = {"model": "easyanimate-v5.1-7b-inp", "width": 64, "height": 64, "frame_count": TRAINED}
    (folder / "vinf.json").write_text(json.dumps(facts))
    return ModelSource(model=str(folder), offline=True)


def video(scope: TemporalScope, seed: int) -> GenerationSpec:
    return GenerationSpec(
        prompt="a red ball bouncing over the sea",
        frame_count=FRAMES,
        width=64,
        height=64,
        seed=seed,
        step_count=4,
        guidance_scale=2.0,
        scope=scope,
        solver=Solver.FLOW_EULER,
    )


def latents(generator: Generator, what: GenerationSpec) -> torch.Tensor:
    control = ControlPlane(generator.topology, None)
    return generator.latents("g", what, generator.plan(what), Recorder(), control.agree).double()


def steps_between(video: torch.Tensor, clip: int) -> Steps:
    """How far each latent frame is from the one before, and where clips of the trained length meet."""
    values = (video[1:] - video[:-1]).abs().flatten(1).mean(dim=1)
    return Steps(values.numpy().astype(np.float64), list(range(clip, len(video), clip)), window=2)


@pytest.mark.parametrize("save", [skyreels, easyanimate])
def test_seams_are_no_worse_than_those_of_clips_generated_one_by_one(
    save: Callable[[Path], ModelSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path)
    topology, clock = Topology.single(), StageClock(torch.device("cpu"))
    model = load_model(source, device=topology.device, dtype=torch.float32)
    assert model.temporal_sites.position_count == POSITIONS
    generator = Generator(model, topology, Exchange(topology, None, clock), clock)
    used: set[int] = set()
    build = JointPlan.build

    def watched(*args: object, **more: object) -> JointPlan:
        plan: JointPlan = build(*args, **more)  # type: ignore[arg-type]
        for group in plan.groups:
            for segment in (*group.local, *group.remote):
                used.update(segment.positions.tolist())
        return plan

    monkeypatch.setattr(JointPlan, "build", watched)
    ways = {"dual": DUAL, "windows": WINDOWS}
    found = {name: [latents(generator, video(scope, seed)) for seed in SEEDS] for name, scope in ways.items()}
    assert used == set(range(POSITIONS)), "positions beyond those of training, or not all of them"

    def one_by_one(spec: GenerationSpec) -> OverlapFusion:
        alone = replace(WINDOWS, overlap_frames=0)
        context = generator._context
        return OverlapFusion(model, context, alone, POSITIONS, lambda window: model.begin(spec, window))

    monkeypatch.setattr(generator, "_fusion", one_by_one)
    found["one by one"] = [latents(generator, video(DUAL, seed)) for seed in SEEDS]
    ratios = {name: seam([steps_between(video, POSITIONS) for video in videos]).ratio for name, videos in found.items()}
    assert all(torch.isfinite(one).all() for videos in found.values() for one in videos)
    different = float((found["dual"][0] - found["one by one"][0]).abs().max())
    assert different > 1e-3, "the dual scope changes nothing"
    # With random weights next to nothing is a seam; a ratio far above that of clips generated alone would be.
    for name in ways:
        assert ratios[name] <= ratios["one by one"] + 0.05, ratios
