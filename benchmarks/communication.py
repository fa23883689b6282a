"""`vinf bench communication`: bytes a rank receives in a step, from shapes and, where the model is small, counted.

From shapes it takes seconds for any model, number of ranks and length, and needs none of the devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from benchmarks.models import build, latent_size, limits_of, outline
from benchmarks.published import PublishedScheme
from benchmarks.report import Report, Value, say
from benchmarks.settings import Settings, SettingsError
from benchmarks.subject import TIMESTEP, Subject, frames_received
from benchmarks.traffic import (
    PUBLISHED_GLOBAL_FRAMES,
    PUBLISHED_PADDING,
    FrameBytes,
    published_step_bytes,
    weigh_frame,
)
from benchmarks.worlds import run_ranks
from vinf_core.context.layout import NEGLIGIBLE_BIAS
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology

COUNTED_PARAMETERS = 100_000_000
"""Larger models are not run to be counted."""

COUNTED_RANKS = 2
COUNTED_FRAMES = 48
"""Real ranks and length for the count."""


def run(settings: Settings, device: torch.device) -> list[Report]:
    """Compute from shapes for every length; then count a real step of a small world."""
    if min(settings.frames) < settings.ranks:
        raise SettingsError(
            f"--frames: {min(settings.frames)} is less than one frame for each of {settings.ranks} ranks"
        )
    unet = outline(settings)
    height, width = latent_size(settings)
    dtype: torch.dtype = getattr(torch, settings.dtype)
    frame = weigh_frame(unet, height=height, width=width, texts=settings.texts, item_bytes=dtype.itemsize)
    reports = [_from_shapes(settings, frame)]
    if sum(parameter.numel() for parameter in unet.parameters()) <= COUNTED_PARAMETERS:
        # Bytes and collectives do not depend on the device: any machine can count.
        settings = replace(settings, device="cpu")
        reports.append(_counted(settings, frame))
    else:
        say(f"{settings.model} is too large to be run for a count")
    return reports


def planned_step_bytes(
    settings: Settings, frame: FrameBytes, *, frames: int, ranks: int, skip_negligible: bool = False
) -> tuple[float, float]:
    """Bytes a rank in the middle receives in a step of the engine: for attention, and for temporal convolutions.

    Where the phases differ, their mean over timesteps that are spread evenly over the 1000 of training.
    """
    scope = limits_of(settings).default_scope
    above, below, convolution = frames_received(frames, ranks, scope, skip_negligible=skip_negligible)
    share = 1 - scope.phase_timestep / 1000
    return (share * above + (1 - share) * below) * frame.attention, convolution * frame.convolution


def _from_shapes(settings: Settings, frame: FrameBytes) -> Report:
    report = Report(title=f"GB received in a step by a rank in the middle of {settings.ranks}, from shapes")
    published = published_step_bytes(frame, settings.ranks)
    scope = limits_of(settings).default_scope
    for frames in settings.frames:
        attention, convolution = planned_step_bytes(settings, frame, frames=frames, ranks=settings.ranks)
        total = attention + convolution
        row: dict[str, Value] = {
            "frames": frames,
            "frames a rank": frames / settings.ranks,
            "attention": attention / 1e9,
            "convolution": convolution / 1e9,
            "engine": total / 1e9,
            "published": published.total / 1e9,
            "engine/published": total / published.total,
        }
        if scope.phase_bias >= NEGLIGIBLE_BIAS:
            less = sum(planned_step_bytes(settings, frame, frames=frames, ranks=settings.ranks, skip_negligible=True))
            row |= {"without negligible": less / 1e9, "of published": less / published.total}
        report.rows.append(row)
    report.notes = [
        f"engine: {scope.half_window} neighbours to each side and {scope.global_frames} global frames, hidden states; "
        f"texts: {settings.texts}, {settings.dtype}",
        f"published scheme: {PUBLISHED_PADDING} to each side and {PUBLISHED_GLOBAL_FRAMES} global frames, keys and "
        f"values: {published.attention_halo / 1e9:.3g} halo + {published.attention_global / 1e9:.3g} global + "
        f"{published.convolution / 1e9:.3g} convolution",
        f"one frame in one step: {frame.attention / 1e6:.4g} MB over {frame.attentions} attentions, "
        f"{frame.convolution / 1e6:.4g} MB over {frame.convolutions} convolution layers",
    ]
    return report


def _counted(settings: Settings, frame: FrameBytes) -> Report:
    say(f"counting a step of {COUNTED_RANKS} real ranks, {COUNTED_FRAMES} frames")
    engine, published = run_ranks(COUNTED_RANKS, settings, count_step, COUNTED_FRAMES)[-1]
    planned = sum(planned_step_bytes(settings, frame, frames=COUNTED_FRAMES, ranks=COUNTED_RANKS))
    report = Report(title=f"one step of {COUNTED_RANKS} real ranks on {COUNTED_FRAMES} frames, counted")
    report.rows = [
        {
            "scheme": "engine",
            "exchanges of frames": engine.exchanges,
            "all-reduces": engine.reductions,
            "MB received": engine.received_bytes / 1e6,
            "MB from shapes": planned / 1e6,
            "counted/shapes": engine.received_bytes / planned,
        },
        {
            "scheme": "published",
            "exchanges of frames": published.exchanges,
            "all-reduces": published.reductions,
            "MB received": published.received_bytes / 1e6,
        },
    ]
    return report


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """What one rank's exchange counted in one step."""

    received_bytes: int
    exchanges: int
    reductions: int

    @classmethod
    def of(cls, exchange: Exchange) -> Count:
        """Read the counters of an exchange that has served one step."""
        return cls(
            received_bytes=exchange.received_bytes,
            exchanges=exchange.exchange_count,
            reductions=exchange.reduction_count,
        )


def count_step(topology: Topology, groups: Groups, settings: Settings, frames: int) -> tuple[Count, Count]:
    """Run one step of the engine and one of the published scheme on this rank; return what each exchanged."""
    measured = build(settings, topology.device)
    latents, text = measured.inputs(frames, settings.texts)
    subject = Subject(measured.twin(), topology, groups)
    own = subject.begin(frames, measured.model.limits.default_scope)
    subject.step(latents[0, :, own].transpose(0, 1).repeat(settings.texts, 1, 1, 1), text)
    published = PublishedScheme(measured.twin().unet, topology, groups)
    published.begin(frames // topology.world_size)
    published.step(latents[:, :, own].repeat(settings.texts, 1, 1, 1, 1), TIMESTEP, text)
    return Count.of(subject.exchange), Count.of(published.exchange)
