"""Which faults come, in which order, with which numbers: all of it from one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "rank-kill",
    "rank-stop",
    "rank-pause",
    "agent-kill",
    "agent-pause",
    "front-kill",
    "front-pause",
    "delay",
    "slow",
    "crumbs",
    "reset",
    "black-hole",
    "flood",
]

COSTS_THE_GROUP: frozenset[Kind] = frozenset({"rank-kill", "rank-stop", "agent-kill"})
"""The server counts these; five in ten minutes end it."""

LOSSES_BETWEEN_FRONTS = 3
"""Losses of the group after which the front is killed, so that its count begins anew: giving up is another test."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    kind: Kind
    pause_s: float
    """From the moment when it could come (the one before is over, the group is ready) until it comes."""

    lasts_s: float = 0.0
    amount: float = 0.0
    """Of its kind: seconds of delay, bytes a second, bytes a piece, requests of a flood; which rank, in [0, 1)."""


def process_faults(seed: int, *, restart_front: bool) -> Iterator[Fault]:
    """Faults of processes, one after the other, without end.

    Args:
        seed: equal seeds, equal faults.
        restart_front: whether generations outlive the front; without it, it is never killed, and the group is never
            lost more often than a server allows.
    """
    rng = random.Random(f"processes {seed}")
    losses = 0
    while True:
        kinds: list[Kind] = ["rank-pause", "agent-pause", "front-pause"]
        if restart_front and losses >= LOSSES_BETWEEN_FRONTS:
            kinds = ["front-kill"]
        elif losses < LOSSES_BETWEEN_FRONTS:
            kinds += ["rank-kill"] * 4 + ["rank-stop"] * 2 + ["agent-kill"] * 2
            kinds += ["front-kill"] * 2 if restart_front else []
        kind = rng.choice(kinds)
        losses = 0 if kind == "front-kill" else losses + (kind in COSTS_THE_GROUP)
        # Some come while the last one is hardly over, some in the middle of something, some after a quiet time.
        pause_s = rng.choice((0.0, rng.uniform(0.5, 3.0), rng.uniform(1.0, 6.0), rng.uniform(5.0, 20.0)))
        # A rank may be silent for four seconds; a front that sleeps itself must not blame its ranks for it.
        lasts_s = rng.uniform(0.5, 8.0 if kind == "front-pause" else 2.0)
        yield Fault(kind, pause_s, lasts_s=lasts_s, amount=rng.random())


def network_faults(seed: int) -> Iterator[Fault]:
    """Faults of the network and of strangers, one after the other, without end."""
    rng = random.Random(f"network {seed}")
    while True:
        kind: Kind = rng.choice(("delay", "slow", "crumbs", "reset", "reset", "black-hole", "flood"))
        lasts_s = rng.uniform(1.0, 5.0)
        amount = {
            "delay": rng.uniform(0.02, 0.3),
            "slow": rng.uniform(15_000, 120_000),
            "crumbs": float(rng.choice((1, 3, 17, 100))),
            "flood": float(rng.randint(50, 300)),
        }.get(kind, 0.0)
        yield Fault(kind, rng.uniform(0.5, 5.0), lasts_s=lasts_s, amount=amount)
