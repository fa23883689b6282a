"""`vinf bench scale`: a group of ranks beside one rank on the same video, and what a step spends on communication."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.models import Measured, build
from benchmarks.report import Report, Value, say
from benchmarks.settings import Settings, SettingsError
from benchmarks.subject import Subject
from benchmarks.timing import Spread, cpu_seconds, ratio, stopwatch, take_turns, wall_seconds
from benchmarks.worlds import prepare_device, run_ranks
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.types import Stage

TARGETS = {2: 1.85}
"""How many times faster a group is than one rank, at least, by the group's ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What one rank measured at one length; one entry a turn."""

    alone: list[float]
    """Seconds of a step of the whole video on rank 0; other ranks waited."""
    together: list[float]
    """Seconds of a step of the group, from when all were ready until this rank was done."""
    apart: list[float]
    """The same clips at the same time without any exchange: what this machine leaves of a perfect speed-up."""
    alone_cpu: list[float]
    """As `alone`, in CPU seconds of this rank's thread."""
    together_cpu: list[float]
    """As `together`, in CPU seconds of this rank's thread; waiting for others costs none."""
    communicate_share: float
    """Seconds in communication over seconds of the step, over all turns."""
    received_bytes: int
    """Of frames, in one step."""
    exchanges: int
    """Collectives that move frames, in one step."""
    reductions: int
    """All-reduces in one step."""


def run(settings: Settings, device: torch.device) -> list[Report]:
    """Measure every length the settings name."""
    if min(settings.frames) < settings.ranks:
        raise SettingsError(
            f"--frames: {min(settings.frames)} is less than one frame for each of {settings.ranks} ranks"
        )
    prepare_device(settings, 0, settings.ranks)  # enough devices for all of them?
    say(f"starting {settings.ranks} ranks")
    everyone: list[list[Steps]] = run_ranks(settings.ranks, settings, measure_steps)
    report = Report(title=f"{settings.ranks} ranks beside one, dual scope, texts: {settings.texts}")
    for frames, ranks in zip(settings.frames, zip(*everyone, strict=True), strict=True):
        report.rows.append(_row(settings, frames, list(ranks), on_cpu=device.type == "cpu"))
    report.notes = [
        "speed-up: one rank's seconds over those of the group's slowest rank, turn by turn",
        "without exchange: every rank computes its clip by itself at the same time; what the machine allows at best",
        "in CPU time: the same for CPU seconds of the busiest rank; what halos and messages add to the work",
        "communication: largest share of a step that a rank spends sending, receiving, summing and waiting for others",
    ]
    return [report]


def measure_steps(topology: Topology, groups: Groups, settings: Settings) -> list[Steps]:
    """Measure on this rank; every rank calls it with the same settings."""
    measured = build(settings, topology.device)
    group = Subject(measured.twin(), topology, groups)
    single, lonely = (Subject(measured.twin(), Topology.single(topology.device)) for _ in range(2))
    return [_measure_length(settings, topology, measured, group, single, lonely, frames) for frames in settings.frames]


def _measure_length(
    settings: Settings,
    topology: Topology,
    measured: Measured,
    group: Subject,
    single: Subject,
    lonely: Subject,
    frames: int,
) -> Steps:
    scope = measured.model.limits.default_scope
    latents, text = measured.inputs(frames, settings.texts)
    video = latents[0].transpose(0, 1)
    whole = video.repeat(settings.texts, 1, 1, 1)
    own = video[group.begin(frames, scope)].repeat(settings.texts, 1, 1, 1)
    single.begin(frames, scope)
    lonely.begin(own.shape[0] // settings.texts, scope)
    cpu: dict[str, list[float]] = {"alone": [], "together": []}
    before: tuple[float, ...] = ()

    def alone() -> None:
        if topology.is_coordinator:
            cpu["alone"].append(cpu_seconds(lambda: single.step(whole, text)))

    def together() -> None:
        cpu["together"].append(cpu_seconds(lambda: group.step(own, text)))

    def on_turn(turn: int) -> None:
        nonlocal before
        if topology.is_coordinator:
            say(f"{frames} frames, turn {turn} of {settings.repeats}")
        if turn == 1:  # turn 0 does not count
            before = _counters(group)

    # Ranks wait for each other here, so time has to be the time that passes.
    watch = wall_seconds if topology.device.type == "cpu" else stopwatch(topology.device, threads=settings.threads)

    def watch_all(work: Callable[[], object]) -> float:
        group.control.agree()  # all start together; the wait for it does not count
        return watch(work)

    seconds = take_turns(
        {"alone": alone, "together": together, "apart": lambda: lonely.step(own, text)},
        repeats=settings.repeats,
        watch=watch_all,
        on_turn=on_turn,
    )
    changes = [now - then for now, then in zip(_counters(group), before, strict=True)]
    communicate, compute = changes[:2]
    received_bytes, exchanges, reductions = (int(change) // settings.repeats for change in changes[2:])
    return Steps(
        alone=seconds["alone"],
        together=seconds["together"],
        apart=seconds["apart"],
        alone_cpu=cpu["alone"][1:],  # all but turn 0
        together_cpu=cpu["together"][1:],
        communicate_share=communicate / (communicate + compute),
        received_bytes=received_bytes,
        exchanges=exchanges,
        reductions=reductions,
    )


def _row(settings: Settings, frames: int, ranks: list[Steps], *, on_cpu: bool) -> dict[str, Value]:
    together = _slowest([rank.together for rank in ranks])
    apart = _slowest([rank.apart for rank in ranks])
    frame_forwards = frames * settings.texts
    row: dict[str, Value] = {
        "frames": frames,
        "one rank, ms/frame-forward": Spread.of(ranks[0].alone).scaled(1000 / frame_forwards),
        "group, ms/frame-forward": Spread.of(together).scaled(1000 / frame_forwards),
        "speed-up": ratio(ranks[0].alone, together),
        "speed-up, best over best": min(ranks[0].alone) / min(together),
        "target": TARGETS.get(settings.ranks),
        "speed-up without exchange": ratio(ranks[0].alone, apart),
        "speed-up in CPU time": None,
        "communication, % of a step": 100 * max(rank.communicate_share for rank in ranks),
        "MB received a step": max(rank.received_bytes for rank in ranks) / 1e6,
        "exchanges": ranks[0].exchanges,
        "reductions": ranks[0].reductions,
    }
    if on_cpu:
        busiest = _slowest([rank.together_cpu for rank in ranks])
        row["speed-up in CPU time"] = ratio(ranks[0].alone_cpu, busiest)
    return row


def _slowest(ranks: list[list[float]]) -> list[float]:
    """Of every turn the seconds of the rank that took longest."""
    return [max(turn) for turn in zip(*ranks, strict=True)]


def _counters(subject: Subject) -> tuple[float, ...]:
    """Seconds in communication and in the rest of a step, bytes received, exchanges and all-reduces, all so far."""
    subject.clock.settle()
    seconds, exchange = subject.clock.seconds, subject.exchange
    return (
        seconds[Stage.COMMUNICATE],
        seconds[Stage.DENOISE],
        exchange.received_bytes,
        exchange.exchange_count,
        exchange.reduction_count,
    )
