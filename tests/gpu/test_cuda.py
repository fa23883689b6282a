"""The engine on a CUDA device: the CPU's results, through the same service."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.engine import Recorder
from tests.support.server import Server
from tests.support.sprites import load_sprites
from tests.support.tiny import SOLVERS
from vinf_core.context.partition import partition
from vinf_core.decode.buffers import HostBuffers
from vinf_core.decode.decoder import decode_video
from vinf_core.decode.levels import to_levels
from vinf_core.decode.slices import SLICE_FRAMES
from vinf_core.diffusion.checkpoint import capture, from_records, restore, to_records
from vinf_core.diffusion.preview import Preview, Previewer
from vinf_core.diffusion.schedule import make_scheduler
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.events import Pixels, StageClock
from vinf_core.recorder import Lane
from vinf_core.types import GenerationSpec, Solver, Stage

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

PROMPT = "a red ball bouncing over the sea"


def sprites_latents(device: str, solver: Solver) -> tuple[torch.Tensor, StageClock]:
    topology = Topology.single(device)
    clock = StageClock(topology.device)
    model = load_sprites(topology.device)
    generator = Generator(model, topology, Exchange(topology, None, clock), clock)
    limits = model.limits
    what = GenerationSpec(
        prompt=PROMPT,
        frame_count=24,
        width=limits.default_width,
        height=limits.default_height,
        seed=7,
        step_count=8,
        guidance_scale=limits.default_guidance_scale,
        scope=limits.default_scope,
        solver=solver,
    )
    layout = generator.plan(what)
    agree = ControlPlane(topology, None).agree
    return generator.latents("g", what, layout, Recorder(), agree).cpu(), clock


@pytest.mark.parametrize("solver", SOLVERS)
def test_latents_agree_with_the_cpu(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    expected, _ = sprites_latents("cpu", solver)
    got, clock = sprites_latents("cuda", solver)
    error = float((got - expected).norm() / expected.norm())
    assert error < 1e-3, f"relative L2 error {error:.1e} between CUDA and CPU, expected below 1e-3"
    assert clock.seconds[Stage.DENOISE] > 0, "GPU time was not measured"


@torch.inference_mode()
def test_decoding_ahead_delivers_what_decoding_alone_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink reads only after the GPU has done all it was given: a slice overwritten too early would show."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    topology = Topology.single("cuda")
    model = load_sprites(topology.device)
    frame_count, (width, height) = 101, (model.limits.default_width, model.limits.default_height)
    latents = torch.randn(frame_count, *model.latent_shape(width, height), device="cuda")
    expected = torch.cat(
        [to_levels(model.decode(part))[0].cpu() for part in torch.split(latents, SLICE_FRAMES)]
    ).numpy()
    clock = StageClock(topology.device)
    places = set()

    class Sink(Recorder):
        def send(self, frame_index: int, pixels: Pixels) -> None:
            torch.cuda.synchronize()
            super().send(frame_index, pixels)
            places.add(pixels.__array_interface__["data"][0])

    sink = Sink()
    decode_video(
        model,
        latents,
        partition(frame_count, [1]),
        topology,
        Exchange(topology, None, clock),
        buffers=HostBuffers(topology.device),
        clock=clock,
        agree=ControlPlane(topology, None).agree,
        sink=sink,
        on_frames=lambda _: None,
    )
    assert list(sink.frames) == list(range(frame_count))
    np.testing.assert_array_equal(np.stack(list(sink.frames.values())), expected)
    assert len(places) == 2 * SLICE_FRAMES, "two pinned buffers, used in turn"
    clock.settle()
    assert clock.seconds[Stage.DECODE] > 0
    assert clock.seconds[Stage.DELIVER] > 0


def test_the_service_makes_the_cpus_video(tmp_path: Path) -> None:
    videos = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        folder.mkdir()
        with Server(folder, "--ranks", "1", "--device", device, "--deterministic") as server:
            video = folder / "video.npy"
            server.vinf("generate", PROMPT, "--frames", "47", "--seed", "7", "-o", str(video))
            videos[device] = np.load(video).astype(int)
    worst = abs(videos["cpu"] - videos["cuda"]).max()
    assert worst <= 2, f"CUDA and CPU differ by {worst} of 255, expected at most 2"


def test_a_checkpoint_is_a_snapshot_although_the_gpu_goes_on() -> None:
    scheduler = make_scheduler(
        Solver.DPM_SOLVER_PP_2M,
        load_sprites().scheduler_config,
        6,
    )
    latents = torch.randn(64, 4, 64, 64, device="cuda")
    taken, expected = [], []
    for index, timestep in enumerate(scheduler.timesteps):
        latents = scheduler.step(latents * 0.5, timestep, latents, return_dict=False)[0]
        taken.append(capture(scheduler, latents, completed_steps=index + 1, start_frame=0, count=48))
        expected.append((latents[:48].clone(), scheduler.model_outputs[-1][:48].clone()))
    for checkpoint, (state, output) in zip(taken, expected, strict=True):
        records = list(to_records(checkpoint))
        read = from_records(records, completed_steps=checkpoint.completed_steps, frames=range(48))
        fresh = make_scheduler(Solver.DPM_SOLVER_PP_2M, scheduler.config, 6)
        assert torch.equal(restore(fresh, read, torch.device("cuda")), state)
        assert torch.equal(fresh.model_outputs[-1], output)


def test_previews_are_made_beside_the_steps_and_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    topology = Topology.single("cuda")
    model = load_sprites(topology.device)
    clock = StageClock(topology.device)
    generator = Generator(model, topology, Exchange(topology, None, clock), clock)
    what = GenerationSpec(
        prompt=PROMPT,
        frame_count=24,
        width=64,
        height=64,
        seed=7,
        step_count=8,
        guidance_scale=model.limits.default_guidance_scale,
        scope=model.limits.default_scope,
    )
    shown: list[Preview] = []
    clean: list[torch.Tensor] = []

    class Sink:
        has_room = True

        def send(self, preview: Preview) -> None:
            assert preview.copied is not None
            assert preview.pictures.is_pinned()
            shown.append(preview)

    step_ended = Previewer.step_ended

    def remember(previewer: Previewer, completed_steps: int, estimate: torch.Tensor) -> None:
        clean.append(estimate.clone())
        # Whatever would wait for the GPU raises.
        torch.cuda.set_sync_debug_mode("error")
        try:
            step_ended(previewer, completed_steps, estimate)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Previewer, "step_ended", remember)
    agree = ControlPlane(topology, None).agree
    plain, watched = (
        generator.latents(
            "g", what, generator.plan(what), Recorder(), agree, previews=Sink(), preview_interval=interval
        )
        for interval in (0, 1)
    )
    assert torch.equal(plain, watched)
    assert [preview.completed_steps for preview in shown] == list(range(1, 9))
    preview_map = model.preview_map.to(torch.device("cpu"))
    for preview, estimate in zip(shown, clean, strict=True):
        preview.wait()
        expected = preview_map.pictures(estimate[list(preview.frames)].cpu())
        assert (preview.pictures.int() - expected.int()).abs().max() <= 1


@torch.inference_mode()
def test_spans_are_the_gpus_time_on_the_hosts_clock() -> None:
    clock = StageClock(torch.device("cuda"))
    values = torch.randn(2048, 2048, device="cuda")

    def work() -> None:
        for _ in range(40):
            torch.mm(values, values)

    work()
    torch.cuda.synchronize()
    clock.recorder.begin()
    before = time.time_ns()
    for step in (1, 2):
        with clock.measure(Stage.DENOISE, "step", step=step):
            work()
            with clock.measure(Stage.COMMUNICATE, "post") as posted:
                work()
            work()
            with clock.measure(Stage.COMMUNICATE, "wait", since=posted):
                work()
        clock.settle()
    after = time.time_ns()
    spans = clock.recorder.take(100)
    steps = [span for span in spans if span.lane is Lane.COMPUTE]
    assert [span.step for span in steps] == [1, 2]
    assert before - 1_000_000 <= steps[0].start_ns
    assert steps[0].start_ns + steps[0].duration_ns <= steps[1].start_ns + 1_000_000
    assert steps[1].start_ns + steps[1].duration_ns <= after + 1_000_000
    measured = sum(clock.seconds.values())
    assert sum(span.duration_ns for span in steps) / 1e9 == pytest.approx(measured, rel=0.01)
    for exchange in (span for span in spans if span.lane is Lane.TRANSFER):
        assert exchange.communicate_ns / exchange.duration_ns == pytest.approx(2 / 3, abs=0.1)
