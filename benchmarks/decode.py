"""`vinf bench decode`: the VAE in the slices that are delivered, beside everything at once as stock does it."""

from __future__ import annotations

import torch

from benchmarks.models import Measured, build
from benchmarks.report import Report, Value, say
from benchmarks.settings import Settings
from benchmarks.timing import Spread, ratio, stopwatch, take_turns
from vinf_core.decode.buffers import HostBuffers
from vinf_core.decode.levels import to_levels
from vinf_core.decode.slices import SLICE_FRAMES


def run(settings: Settings, device: torch.device) -> list[Report]:
    """Measure every length the settings name."""
    say(f"building {settings.model}")
    measured = build(settings, device)
    report = Report(title=f"decoding {measured.width} x {measured.height} pictures, one rank")
    for frames in settings.frames:
        report.rows.append(_compare(settings, measured, frames))
    report.notes = [f"slices of {SLICE_FRAMES} frames, uint8 pictures; at once: every frame in one call, floats"]
    return [report]


def _compare(settings: Settings, measured: Measured, frames: int) -> dict[str, Value]:
    latents = measured.inputs(frames, 1)[0][0].transpose(0, 1)

    def slices() -> None:
        buffers = HostBuffers(measured.model.device)
        for part in torch.split(latents, SLICE_FRAMES):
            buffers.fetch(*to_levels(measured.model.decode(part)))
            receive(buffers, leave=buffers.ahead)
        receive(buffers, leave=0)

    def receive(buffers: HostBuffers, leave: int) -> None:
        while len(buffers) > leave:
            with buffers.oldest():
                pass

    @torch.inference_mode()
    def at_once() -> None:
        measured.vae.decode(latents / measured.vae.config.scaling_factor, return_dict=False)[0].cpu()

    seconds = take_turns(
        {"slices": slices, "at once": at_once},
        repeats=settings.repeats,
        watch=stopwatch(measured.model.device, threads=settings.threads),
        on_turn=lambda turn: say(f"{frames} frames, turn {turn} of {settings.repeats}"),
    )
    return {
        "frames": frames,
        "slices, ms/frame": Spread.of(seconds["slices"]).scaled(1000 / frames),
        "at once, ms/frame": Spread.of(seconds["at once"]).scaled(1000 / frames),
        "time ratio": ratio(seconds["slices"], seconds["at once"]),
        "first frame, ms": Spread.of(seconds["slices"]).median * 1000 * min(SLICE_FRAMES, frames) / frames,
    }
