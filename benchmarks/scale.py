"""`vinf bench scale`: a group of ranks beside one rank on the same video, and what a step spends on communication."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.models import build
from benchmarks.report import Report, Value, say
from benchmarks.settings import Settings, SettingsError
from benchmarks.subject import Subject
from benchmarks.timing import Spread, ratio, stopwatch, take_turns
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
    report = Report(title=f"{settings.ranks} ranks beside one, dual scope, {settings.texts} texts")
    for frames, ranks in zip(settings.frames, zip(*everyone, strict=True), strict=True):
        report.rows.append(_row(settings, frames, list(ranks)))
    report.notes = [
        "speed-up: one rank's seconds over those of the group's slowest rank, turn by turn",
        "without exchange: every rank computes its clip by itself at the same time; what the machine allows at best",
        "communication: largest share of a step that a rank spends sending, receiving, summing and waiting for others",
    ]
    return [report]


def measure_steps(topology: Topology, groups: Groups, settings: Settings) -> list[Steps]:
    """Measure on this rank; every rank calls it with the same settings."""
    measured = build(settings, topology.device)
    scope = measured.model.limits.default_scope
    group = Subject(measured.twin(), topology, groups)
    single, lonely = (Subject(measured.twin(), Topology.single(topology.device)) for _ in range(2))
    watch = stopwatch(topology.device)
    found = []
    for frames in settings.frames:
        latents, text = measured.inputs(frames, settings.texts)
        video = latents[0].transpose(0, 1)
        own = video[group.begin(frames, scope)].repeat(settings.texts, 1, 1, 1)
        whole = video.repeat(settings.texts, 1, 1, 1)
        single.begin(frames, scope)
        lonely.begin(own.shape[0] // settings.texts, scope)
        stages: dict[Stage, float] = {}
        counted = (0, 0, 0)

        def alone(whole: torch.Tensor = whole, text: torch.Tensor = text) -> None:
            if topology.is_coordinator:
                single.step(whole, text)

        def together(own: torch.Tensor = own, text: torch.Tensor = text) -> None:
            group.step(own, text)

        def apart(own: torch.Tensor = own, text: torch.Tensor = text) -> None:
            lonely.step(own, text)

        def on_turn(turn: int, frames: int = frames) -> None:
            nonlocal stages, counted
            if topology.is_coordinator:
                say(f"{frames} frames, turn {turn} of {settings.repeats}")
            if turn == 1:  # turn 0 does not count
                group.clock.settle()
                stages, counted = dict(group.clock.seconds), _counters(group)

        # Every rank starts the group's step when all are ready for it: an agreement before each, outside the time.
        seconds = take_turns(
            {"alone": alone, "together": together, "apart": apart},
            repeats=settings.repeats,
            watch=lambda work: (group.control.agree(), watch(work))[1],
            on_turn=on_turn,
        )
        group.clock.settle()
        spent = {stage: group.clock.seconds[stage] - stages[stage] for stage in (Stage.DENOISE, Stage.COMMUNICATE)}
        per_step = [(now - then) // settings.repeats for now, then in zip(_counters(group), counted, strict=True)]
        found.append(
            Steps(
                alone=seconds["alone"],
                together=seconds["together"],
                apart=seconds["apart"],
                communicate_share=spent[Stage.COMMUNICATE] / sum(spent.values()),
                received_bytes=per_step[0],
                exchanges=per_step[1],
                reductions=per_step[2],
            )
        )
    return found


def _row(settings: Settings, frames: int, ranks: list[Steps]) -> dict[str, Value]:
    together = _slowest([rank.together for rank in ranks])
    apart = _slowest([rank.apart for rank in ranks])
    frame_forwards = frames * settings.texts
    return {
        "frames": frames,
        "one rank, ms/frame-forward": Spread.of(ranks[0].alone).scaled(1000 / frame_forwards),
        "group, ms/frame-forward": Spread.of(together).scaled(1000 / frame_forwards),
        "speed-up": ratio(ranks[0].alone, together),
        "target": TARGETS.get(settings.ranks),
        "speed-up without exchange": ratio(ranks[0].alone, apart),
        "communication, % of a step": 100 * max(rank.communicate_share for rank in ranks),
        "MB received a step": max(rank.received_bytes for rank in ranks) / 1e6,
        "exchanges": ranks[0].exchanges,
        "reductions": ranks[0].reductions,
    }


def _slowest(ranks: list[list[float]]) -> list[float]:
    """Of every turn the seconds of the rank that took longest."""
    return [max(turn) for turn in zip(*ranks, strict=True)]


def _counters(subject: Subject) -> tuple[int, int, int]:
    exchange = subject.exchange
    return exchange.received_bytes, exchange.exchange_count, exchange.reduction_count
