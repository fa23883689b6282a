"""A server whose ranks share the guidance of one clip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.engine import Recorder
from tests.support.server import ROOT, Server
from tests.support.sprites import load_sprites
from vinf_client import Client, Mesh
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.events import StageClock
from vinf_core.types import GenerationSpec

pytestmark = pytest.mark.process

PROMPT = "a red ball bouncing over the sea"


def test_two_ranks_share_the_guidance_of_one_clip(tmp_path: Path) -> None:
    with Server(tmp_path, "--device", "cpu", "--ranks", "2", "--cfg-ranks", "2") as server:
        with Client(server.address) as client:
            handle = client.submit(PROMPT, frames=18, seed=4, steps=3)
            got = np.stack(list(handle.frames())).astype(int)
            assert client.info().mesh == Mesh(clip_count=1, cfg_rank_count=2, context_rank_count=1)
            clips = [clip.frame_count for clip in handle.refresh().clips]
        assert "(cpu; 1 clips x 2 cfg x 1 context)" in server.log.read_text()
    assert clips == [18, 0], "the first rank of the clip has it, the other one works along"
    expected = on_one_rank(18, 4, 3)
    assert got.shape == expected.shape
    assert abs(got - expected).max() <= 2, f"one rank differs by {abs(got - expected).max()} of 255, expected at most 2"


def on_one_rank(frames: int, seed: int, steps: int) -> np.ndarray:
    topology = Topology.single()
    clock = StageClock(topology.device)
    model = load_sprites()
    generator = Generator(model, topology, Exchange(topology, None, clock), clock)
    limits = model.limits
    what = GenerationSpec(
        prompt=PROMPT,
        frame_count=frames,
        width=limits.default_width,
        height=limits.default_height,
        seed=seed,
        step_count=steps,
        guidance_scale=limits.default_guidance_scale,
        scope=limits.default_scope,
    )
    sink = Recorder()
    agree = ControlPlane(topology, None).agree
    generator.generate("g", what, observer=sink, open_sink=lambda _: sink, agree=agree)
    return np.stack([sink.frames[index] for index in range(frames)]).astype(int)


def test_a_model_without_joint_attention_has_no_tokens_to_share(tmp_path: Path) -> None:
    """Only the ranks know the model: the front hears of the mistake from them, and does not try again."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vinf_client.cli", "serve", "--device", "cpu"),
            *("--ranks", "2", "--context-ranks", "2", "--no-spare", "--data-dir", str(tmp_path)),
            *("--listen", "127.0.0.1:0", "--metrics", "off"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "vinf serve: error: --context-ranks: 2 is not 1, which is all that the model sprites allows: it has no joint "
        "attention over space and time whose tokens ranks could divide"
    )
    assert "Traceback" not in done.stderr
