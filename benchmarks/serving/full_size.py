"""`vinf bench full-size`: a published model at its full size through a real server, with random weights.

Random weights cost what trained ones cost. They are written in the published layout into a temporary folder, which
`vinf serve --model FOLDER` loads as it loads downloaded ones; nothing is downloaded. Beside it stock diffusers makes a
clip of the length that the model was trained on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, TextToVideoSDPipeline
from diffusers.utils import logging as diffusers_logging
from prometheus_client.parser import text_string_to_metric_families
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from benchmarks import full_step
from benchmarks.capacity import count, longest_video
from benchmarks.full_size import FULL_SIZE, TOY, FullSize
from benchmarks.report import Report, Value, say
from benchmarks.settings import TOY as TOY_NAME
from benchmarks.settings import FullSizeSettings, SettingsError
from benchmarks.worlds import RankFailedError
from vinf_client import Client, Generation, Model
from vinf_core.engine.probe import USABLE_SHARE, default_budget

PROMPT = "a red ball bouncing over the sea"

TOY_SIZE = 64
"""Pixels of each side of the toy's pictures, the least that its limits take."""

_FRAMES = 96

_START_S = 480.0
"""Longest until the ranks have loaded several gigabytes and probed their memory."""

_STOP_S = 60.0
_LOG_LINES = 15
_POLL_S = 0.1
_SCRAPE_S = 10.0


@dataclass(frozen=True, slots=True)
class Served:
    """What a video took."""

    ready_s: float
    """From the start of the server until it took generations."""
    first_frame_s: float
    """From the request until the first frame was here."""
    wall_s: float
    """From the request until the last frame was here."""
    generation: Generation
    model: Model
    reserved_bytes: int
    """Most that a rank's allocator had of its device, or its process of the host."""
    device_bytes: int
    """In use on the fullest GPU when the video was there, by all processes; 0: no GPU, or NVML is not installed."""


def run(settings: FullSizeSettings) -> list[Report]:
    """Make the weights, serve them, generate, and make the clip beside it.

    Raises:
        SettingsError: there is no such device.
        RankFailedError: the server did not start, or the video could not be made.
    """
    _check_devices(settings)
    if settings.is_joint:
        return full_step.run(settings)
    settings = replace(settings, frames=settings.frames or _FRAMES)
    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()  # of files, which is not our progress
    what = TOY if settings.model == TOY_NAME else FULL_SIZE[settings.model]
    with tempfile.TemporaryDirectory(prefix="vinf-full-size-") as temporary:
        folder = Path(temporary, "model")
        say(f"writing random weights of {settings.model}")
        what.save(folder, torch.float16)
        served = serve(folder, Path(temporary), settings)
        report = Report(title=f"{settings.model} with random weights through vinf serve")
        report.rows.append(_row(settings, served))
        reports = [report]
        if settings.stock:
            say("stock diffusers: one clip")
            reports.append(_stock_report(what, folder, settings, served))
    if what is not TOY:
        say("counting what memory it should take")
        reports.append(_memory_report(what, settings, served))
    return reports


def serve(model: Path, folder: Path, settings: FullSizeSettings) -> Served:
    """Start a server for a model's folder, have it make one video, and stop it."""
    started = time.perf_counter()
    say(f"starting vinf serve with {settings.ranks} ranks")
    with _server(model, folder, settings) as ready, Client(ready["listen"], tls=False, token="") as client:
        ready_s = time.perf_counter() - started
        served_model = client.info().model()
        assert served_model is not None, "a server that is ready knows its model"
        options: dict[str, Any] = {"width": TOY_SIZE, "height": TOY_SIZE} if settings.model == TOY_NAME else {}
        if settings.steps:
            options["steps"] = settings.steps
        say(f"generating {settings.frames} frames")
        began = time.perf_counter()
        handle = client.submit(PROMPT, frames=settings.frames, seed=settings.seed, **options)
        first_frame_s = 0.0
        for _ in handle.frames():
            first_frame_s = first_frame_s or time.perf_counter() - began
        wall_s = time.perf_counter() - began
        generation, metrics = handle.wait(), f"http://{ready['metrics']}/metrics"
        # An allocator keeps what it once had, so that a look afterwards is early enough.
        reserved = largest_sample(metrics, "vinf_worker_memory_peak_bytes")
        on_device = largest_sample(metrics, "vinf_gpu_memory_used_bytes")
        return Served(ready_s, first_frame_s, wall_s, generation, served_model, reserved, on_device)


def largest_sample(url: str, name: str) -> int:
    """The largest value of a metric over its labels; 0: there is none."""
    with urlopen(url, timeout=_SCRAPE_S) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return round(
        max((sample.value for family in families for sample in family.samples if sample.name == name), default=0)
    )


def stock_clip(
    what: FullSize, folder: Path, generation: Generation, frames: int, settings: FullSizeSettings
) -> tuple[float, int | None]:
    """Make one clip with the stock pipeline; return its seconds, and the most bytes held on a GPU.

    The model's published scheduler is replaced by the solver that the server used. The first, unmeasured clip of two
    steps sets libraries up, as the server does while it starts.
    """
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    spec = generation.spec
    unet = what.unet_class.from_pretrained(folder / "unet", torch_dtype=dtype, local_files_only=True)
    if hasattr(unet, "set_frame_rate"):
        unet.set_frame_rate(float(spec.frame_rate))
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    pipeline = TextToVideoSDPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype, local_files_only=True),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype, local_files_only=True),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        unet=unet,
        scheduler=DPMSolverMultistepScheduler.from_config(scheduler),
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def make(steps: int) -> float:
        began = time.perf_counter()
        pipeline(
            PROMPT,
            num_frames=frames,
            width=spec.width,
            height=spec.height,
            num_inference_steps=steps,
            guidance_scale=spec.guidance_scale,
            generator=torch.Generator().manual_seed(settings.seed),
        )
        return time.perf_counter() - began  # its frames are on the host: nothing is under way any more

    make(2)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = make(spec.inference_step_count)
    return seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _check_devices(settings: FullSizeSettings) -> None:
    if settings.device != "cuda":
        return
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not there:
        raise SettingsError(
            "--device: cuda, but there is no CUDA device on this machine, or torch was built without CUDA; "
            "--model toy --device cpu tries the command without one"
        )
    if settings.ranks > there:
        raise SettingsError(f"--ranks: {settings.ranks} is more than the {there} CUDA devices of this machine")


@contextmanager
def _server(model: Path, folder: Path, settings: FullSizeSettings) -> Iterator[dict[str, str]]:
    """`vinf serve` in a process of its own; yields the addresses of its ready file."""
    ready_file, log_file = folder / "ready.json", folder / "serve.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vinf_client.cli", "serve"),
                *("--model", str(model), "--offline", "--ranks", str(settings.ranks)),
                *("--device", settings.device, "--dtype", settings.dtype),
                *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"),
                *("--data-dir", str(folder / "data"), "--ready-file", str(ready_file)),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us, who end it
        )
    try:
        deadline = time.monotonic() + _START_S
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RankFailedError(f"the server did not become ready:\n{_end_of(log_file)}")
            time.sleep(_POLL_S)
        try:
            yield json.loads(ready_file.read_text())
        except Exception as error:
            raise RankFailedError(f"{error}\n{_end_of(log_file)}") from error
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _end_of(log_file: Path) -> str:
    return "\n".join(log_file.read_text(errors="replace").splitlines()[-_LOG_LINES:])


def _row(settings: FullSizeSettings, served: Served) -> dict[str, Value]:
    spec = served.generation.spec
    return {
        "size": f"{spec.width} x {spec.height}",
        "frames": settings.frames,
        "steps": spec.inference_step_count,
        "ranks": settings.ranks,
        "server ready after, s": served.ready_s,
        "first frame after, s": served.first_frame_s,
        "last frame after, s": served.wall_s,
        "frames/s": settings.frames / served.wall_s,
        "peak memory of a rank, tensors, GB": max(served.generation.peak_rank_memory_bytes, default=0) / 1e9,
        "reserved for it, GB": served.reserved_bytes / 1e9,
        "in use on the device, GB": served.device_bytes / 1e9 if served.device_bytes else None,
        "longest video admitted at native size, frames": served.model.max_frame_count_at_default_size,
    }


def _stock_report(what: FullSize, folder: Path, settings: FullSizeSettings, served: Served) -> Report:
    frames = min(settings.frames, served.model.trained_frame_count)
    report = Report(title="stock diffusers, one clip of the trained length at most, all frames see all, no server")
    try:
        seconds, peak = stock_clip(what, folder, served.generation, frames, settings)
    except torch.OutOfMemoryError:
        report.notes.append(f"{frames} frames do not fit into the memory of this device")
        return report
    report.rows.append(
        {
            "frames": frames,
            "seconds": seconds,
            "frames/s": frames / seconds,
            "peak memory, GB": None if peak is None else peak / 1e9,
            "engine's frames/s over these": settings.frames / served.wall_s / (frames / seconds),
        }
    )
    return report


def _memory_report(what: FullSize, settings: FullSizeSettings, served: Served) -> Report:
    """Counted without a device beside what the ranks measured."""
    model: Any = what.outline(getattr(torch, settings.dtype))
    counted, limits = count(model, settings.ranks), model.limits
    pixels, scope = limits.default_width * limits.default_height, limits.default_scope
    clip = -(-settings.frames // settings.ranks)
    context = min(settings.frames - clip, scope.local_window_frames + scope.global_frames)
    # With the numbers that were counted; the server decided by those that it had measured, and tells nobody.
    memory = replace(counted.memory, budget_bytes=default_budget(torch.device(settings.device), settings.ranks))
    wanted = 2 if served.generation.spec.guidance_scale > 1 else 1
    texts = memory.texts_at_once(clip, pixels, wanted, context_frames=context)
    expected = max(memory.denoise_bytes(clip, pixels, texts, context_frames=context), memory.decode_bytes(pixels))
    peak = max(served.generation.peak_rank_memory_bytes, default=0)
    row: dict[str, Value] = {
        "texts of a step at once, counted": texts,
        "peak of this video, counted, GB": expected / 1e9,
        "the same, measured, GB": peak / 1e9,
        "counted/measured": expected / peak if peak else None,
    }
    if settings.device == "cuda":
        row["longest video, counted, frames"] = longest_video(memory, limits, memory.budget_bytes)
        row["the same, admitted by the server, frames"] = served.model.max_frame_count_at_default_size
    report = Report(title="memory as `vinf bench capacity` counts it, beside what the ranks measured", rows=[row])
    report.notes.append(f"one text at a time where two do not fit; a rank may use {USABLE_SHARE:.0%} of its GPU")
    return report
