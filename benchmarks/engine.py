"""`vinf bench engine`: one rank beside stock diffusers and beside the published scheme's costs, on the same frames."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from benchmarks.flops import frame_forward_flops, mean_keys, total_flops
from benchmarks.models import Measured, build, latent_size, outline
from benchmarks.options import OPTIONS
from benchmarks.peak import matrix_work
from benchmarks.published import PublishedScheme
from benchmarks.report import Report, Value, say
from benchmarks.settings import Settings
from benchmarks.subject import TIMESTEP, Subject
from benchmarks.timing import Spread, ratio, stopwatch, take_turns
from vinf_core.distributed.topology import Topology
from vinf_core.types import TemporalScope

STOCK = "stock, all frames see all"
WHOLE = "engine, window over all"
CLIPS = "stock, clips apart"
DUAL = "engine, dual scope"
PUBLISHED = "published scheme's costs"

TARGETS = {WHOLE: 1.03, DUAL: 1.10}
"""Time over that of `BASELINES`, at most."""
BASELINES = {STOCK: STOCK, WHOLE: STOCK, CLIPS: CLIPS, DUAL: CLIPS, PUBLISHED: CLIPS}

Contender = Callable[[], torch.Tensor]


def run(settings: Settings, device: torch.device) -> list[Report]:
    """Measure every length the settings name."""
    say(f"building {settings.model}")
    measured = build(settings, device)
    reports = [_compare(settings, measured, frames) for frames in settings.frames]
    if settings.options:
        reports.append(_without_options(settings, measured, settings.frames[-1]))
    return reports


def _compare(settings: Settings, measured: Measured, frames: int) -> Report:
    contenders = _contenders(settings, measured, frames)
    difference = _relative(contenders[WHOLE](), contenders[STOCK]())
    multiply, multiply_flops = matrix_work(measured.model.device, measured.model.dtype)
    seconds = take_turns(
        {**contenders, "peak": multiply},
        repeats=settings.repeats,
        watch=stopwatch(measured.model.device, threads=settings.threads),
        on_turn=lambda turn: say(f"{frames} frames, turn {turn} of {settings.repeats}"),
    )
    peak_rates = [multiply_flops / taken for taken in seconds.pop("peak")]
    limits = measured.model.limits
    keys = _keys(measured, frames)
    report = Report(title=f"{frames} frames, texts: {settings.texts}, one rank")
    for name, samples in seconds.items():
        per_frame = Spread.of(samples).scaled(1 / (frames * settings.texts))
        flops = _flops(settings, measured, frames, keys[name]) * frames * settings.texts
        rates = [flops / taken for taken in samples]
        row: dict[str, Value] = {
            "contender": name,
            "ms/frame-forward": per_frame.scaled(1000),
            "TFLOP/s": Spread.of(rates).scaled(1e-12),
            "% of peak": ratio(rates, peak_rates).scaled(100),
        }
        if BASELINES[name] != name:
            baseline = seconds[BASELINES[name]]
            row |= {
                "against": BASELINES[name],
                "time ratio": ratio(samples, baseline),
                "best over best": min(samples) / min(baseline),
                "target": TARGETS.get(name),
            }
        if measured.model.device.type == "cuda":
            row["peak MB"] = _cuda_peak(contenders[name]) / 1e6
        report.rows.append(row)
    report.notes = [
        f"matrix peak, measured in the same turns: {max(peak_rates) / 1e12:.3g} TFLOP/s at best",
        f"{WHOLE} differs from {STOCK} by {difference:.1e} (relative L2)",
    ]
    if CLIPS not in contenders and frames > limits.trained_frame_count:
        report.notes.append(f"{DUAL} is measured at multiples of {limits.trained_frame_count} frames only")
    return report


def _contenders(settings: Settings, measured: Measured, frames: int) -> dict[str, Contender]:
    """Everything that computes ``frames``; those of the dual scope only where the video is longer than a clip."""
    limits = measured.model.limits
    latents, text = measured.inputs(frames, settings.texts)
    everything = TemporalScope(local_window_frames=2 * frames, global_frames=0)
    contenders = {
        STOCK: stock_call(measured, latents, text),
        WHOLE: engine_call(measured, latents, text, everything),
    }
    clip = limits.trained_frame_count
    if frames > clip and frames % clip == 0:
        contenders[CLIPS] = stock_call(measured, latents, text, clip=clip)
        contenders[DUAL] = engine_call(measured, latents, text, limits.default_scope)
        scheme = PublishedScheme(measured.twin().unet, Topology.single(measured.model.device))
        scheme.begin(frames)
        video = latents.expand(settings.texts, -1, -1, -1, -1)
        contenders[PUBLISHED] = lambda: scheme.step(video, TIMESTEP, text)
    return contenders


def engine_call(measured: Measured, latents: torch.Tensor, text: torch.Tensor, scope: TemporalScope) -> Contender:
    """One step of an engine of its own on a video ``[1, C, F, h, w]``, planned beforehand; → ``[B, C, F, h, w]``."""
    subject = Subject(measured.twin(), Topology.single(measured.model.device))
    subject.begin(latents.shape[2], scope)
    flat = latents[0].transpose(0, 1).repeat(text.shape[0], 1, 1, 1)
    return lambda: torch.unflatten(subject.step(flat, text), 0, (text.shape[0], -1)).transpose(1, 2)


def stock_call(measured: Measured, latents: torch.Tensor, text: torch.Tensor, *, clip: int | None = None) -> Contender:
    """The stock UNet on the whole video, or on clips that are batch entries and do not see each other."""
    length = clip or latents.shape[2]
    clips = torch.cat(torch.split(latents, length, dim=2)).repeat(text.shape[0], 1, 1, 1, 1)
    texts = text.repeat_interleave(clips.shape[0] // text.shape[0], dim=0)

    @torch.inference_mode()
    def call() -> torch.Tensor:
        prediction: torch.Tensor = measured.stock_unet(clips, TIMESTEP, texts, return_dict=False)[0]
        return prediction

    return call


def _without_options(settings: Settings, measured: Measured, frames: int) -> Report:
    """The engine with each option off, against the engine as it is."""
    report = Report(title=f"options, {frames} frames: time without the option over time with it")
    if not OPTIONS:
        report.notes.append("this engine has no options that can be switched off")
    latents, text = measured.inputs(frames, settings.texts)
    scope = measured.model.limits.default_scope
    for name, switched_off in OPTIONS.items():
        say(f"without {name}")
        with switched_off():
            without = engine_call(measured, latents, text, scope)
        seconds = take_turns(
            {"with": engine_call(measured, latents, text, scope), "without": _inside(switched_off, without)},
            repeats=settings.repeats,
            watch=stopwatch(measured.model.device, threads=settings.threads),
        )
        report.rows.append({"option": name, "time ratio": ratio(seconds["without"], seconds["with"])})
    return report


def _inside(surroundings: Callable[[], AbstractContextManager[object]], call: Contender) -> Contender:
    def inside() -> torch.Tensor:
        with surroundings():
            return call()

    return inside


def _keys(measured: Measured, frames: int) -> dict[str, float]:
    """Frames that a temporal query sees, by contender."""
    limits = measured.model.limits
    scope = limits.default_scope
    seen = mean_keys(frames, local_window_frames=scope.local_window_frames, global_frames=scope.global_frames)
    return {STOCK: frames, WHOLE: frames, CLIPS: limits.trained_frame_count, DUAL: seen, PUBLISHED: seen}


def _flops(settings: Settings, measured: Measured, frames: int, keys: float) -> float:
    """FLOP of one frame-forward."""
    height, width = latent_size(settings)
    parts = frame_forward_flops(
        outline(settings), height=height, width=width, frames=frames, keys=keys, text_tokens=measured.text_tokens
    )
    return total_flops(parts)


def _relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 difference."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def _cuda_peak(call: Contender) -> int:
    """Bytes a call takes beyond what is held before it."""
    idle = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - idle
