"""The summary of a chaos run."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict, dataclass

from tests.chaos.checker import Verdict
from tests.chaos.faults import FaultLog
from tests.chaos.resources import Resources

SHOWN_VIOLATIONS = 40


@dataclass(slots=True)
class ChaosReport:
    """What was done, what came of it."""

    seed: int
    ranks: int
    seconds: float
    faults: list[FaultLog]
    expected_losses: int
    """Losses of the group that the faults explain."""

    verdict: Verdict
    generations: Counter[str]
    """By how they ended."""

    habits: Counter[str]
    broken_calls: Counter[str]
    """Calls of clients that broke and were made again, by status."""

    flood: Counter[str]
    baseline: Resources
    final: Resources
    losses: int = 0
    """That the server noticed."""

    lives: int = 1
    """Of the front."""

    @property
    def violations(self) -> list[str]:
        """Everything that must not be."""
        return self.verdict.violations

    def recoveries(self) -> dict[str, list[float]]:
        """Seconds from each fault to the next frame of the generation that was running, by kind."""
        found: dict[str, list[float]] = {}
        for fault in self.faults:
            if fault.recovery_s is not None:
                found.setdefault(fault.kind, []).append(fault.recovery_s)
        return found

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "seed": self.seed,
            "ranks": self.ranks,
            "seconds": self.seconds,
            "front_lives": self.lives,
            "group_losses": {"noticed": self.losses, "explained": self.expected_losses},
            "faults": [asdict(fault) for fault in self.faults],
            "recovery_s": {
                kind: {"count": len(times), "median": statistics.median(times), "worst": max(times)}
                for kind, times in self.recoveries().items()
            },
            "generations": dict(self.generations),
            "habits": dict(self.habits),
            "broken_calls": dict(self.broken_calls),
            "flood": dict(self.flood),
            "frames": self.verdict.frames,
            "lost": self.verdict.lost,
            "duplicated": self.verdict.duplicated,
            "reordered": self.verdict.reordered,
            "corrupted": self.verdict.corrupted,
            "unequal_within_tolerance": self.verdict.unequal_within_tolerance,
            "baseline": self.baseline.as_dict(),
            "final": self.final.as_dict(),
            "violations": self.violations,
        }

    def __str__(self) -> str:
        counts = Counter(fault.kind for fault in self.faults)
        recoveries = self.recoveries()
        lines = [
            f"chaos: {self.seconds:.0f} s on {self.ranks} ranks, seed {self.seed}, {self.lives} lives of the front, "
            f"{self.losses} losses of the group ({self.expected_losses} explained)",
            f"{'fault':<12} {'done':>5} {'measured':>9} {'median s':>9} {'worst s':>9} {'red s':>7}",
        ]
        for kind, count in sorted(counts.items()):
            times = recoveries.get(kind, [])
            red = [fault.red_s for fault in self.faults if fault.kind == kind and fault.red_s is not None]
            lines.append(
                f"{kind:<12} {count:>5} {len(times):>9} "
                f"{_number(statistics.median(times) if times else None):>9} {_number(max(times, default=None)):>9} "
                f"{_number(max(red, default=None), 2):>7}"
            )
        verdict = self.verdict
        lines += [
            "generations: " + _listed(self.generations),
            "clients: " + _listed(self.habits),
            "calls that broke and were made again: " + _listed(self.broken_calls),
            "floods: " + _listed(self.flood),
            f"frames received: {verdict.frames}; lost {verdict.lost}, duplicated {verdict.duplicated}, "
            f"reordered {verdict.reordered}, corrupted {verdict.corrupted}, "
            f"other bits within tolerance {verdict.unequal_within_tolerance}",
            f"front before: {self.baseline}",
            f"front after:  {self.final}",
        ]
        lines += [f"VIOLATION: {text}" for text in self.violations[:SHOWN_VIOLATIONS]]
        lines.append("all invariants hold" if not self.violations else f"{len(self.violations)} violations")
        return "\n".join(lines)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"
