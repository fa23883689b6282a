"""What a generator plans."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.engine import spec
from tests.support.tiny import tiny_model
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.events import StageClock

pytestmark = pytest.mark.fast


def frames_seen(*, skip_negligible: bool, phase_bias: float) -> tuple[set[int], set[int]]:
    """Frames of the other rank that rank 0 fetches in each phase: frames 20 to 39."""
    topology = Topology(rank=0, world_size=2, device=torch.device("cpu"))
    clock = StageClock(topology.device)
    generator = Generator(
        tiny_model(), topology, Exchange(topology, None, clock), clock, skip_negligible=skip_negligible
    )
    what = spec(frame_count=40)
    layout = generator.plan(replace(what, scope=replace(what.scope, phase_bias=phase_bias)))
    global_phase, local_phase = (
        {frame for frame in plan.frames.frames if frame >= 20} for plan in (layout.global_phase, layout.local_phase)
    )
    return global_phase, local_phase


def test_negligible_context_is_left_out_only_when_asked_for() -> None:
    both = {20, 21, 33}, {20, 21, 33}
    assert frames_seen(skip_negligible=False, phase_bias=10) == both
    assert frames_seen(skip_negligible=True, phase_bias=7.9) == both
    assert frames_seen(skip_negligible=True, phase_bias=8) == ({20, 33}, {20, 21}), "20 and 33 are global frames"
