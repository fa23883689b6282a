"""What `vinf eval` found, as tables for people and as plain values for programs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from vinf_client.evaluation.assessment import Assessment, Pooled
from vinf_client.evaluation.drift import LOOKS
from vinf_client.evaluation.observation import DISTANCES
from vinf_client.evaluation.seams import Seam

_POOLED = "all together"


def as_dict(found: Assessment | Pooled) -> dict[str, Any]:
    """Everything but the observation itself; what is infinite or unknown is null."""
    told: dict[str, Any] = {}
    if isinstance(found, Assessment):
        seen = found.observation
        told |= {"frames": seen.frame_count, "width": seen.width, "height": seen.height}
    for field in fields(found):
        if field.name != "observation":
            told[field.name] = _plain(getattr(found, field.name))
    return told


def tables(
    names: Sequence[str],
    found: Sequence[Assessment],
    together: Pooled | None,
    scores: Sequence[Mapping[str, float]],
) -> Iterator[str]:
    """Seams, then the rest, then VBench's scores; a row a video, and one for all together where there are several."""
    judged: list[tuple[str, Assessment | Pooled]] = [*zip(names, found, strict=True)]
    if together is not None:
        judged.append((_POOLED, together))
    if any(video.seams for _, video in judged):
        yield _text(_seams(judged))
        yield (
            "The step into a new clip by the usual step nearby: 1 is no seam, many times 1 is one. p: the share of\n"
            "places for the boundaries that look at least as bad; where it is small, it is no chance.\n"
        )
    else:
        yield "No clip boundaries are known: no seams were looked for (--clip-frames or --boundaries tells them).\n"
    yield _text(_looks(judged))
    yield (
        "Flicker as VBench counts it, 1: nothing changes. Motion in pixels a frame by block matching, mean and 95th\n"
        "percentile. Drift: change in 100 frames. Repetition: the period at which frames come back, and how alike.\n"
        "What changes at a cut counts in none of them but the repetition, where a scene that comes back is one.\n"
    )
    if scores:
        yield _text(_vbench(names, scores))


def _seams(judged: Sequence[tuple[str, Assessment | Pooled]]) -> Table:
    table = Table(title="Seams at clip boundaries", title_justify="left")
    table.add_column("video", overflow="fold")
    table.add_column("boundaries", justify="right")
    for name in DISTANCES:
        table.add_column(name, justify="right")
    for name, video in judged:
        count = next((seam.count for seam in video.seams.values()), 0)
        table.add_row(name, str(count), *(_seam(video.seams.get(distance)) for distance in DISTANCES))
    return table


def _looks(judged: Sequence[tuple[str, Assessment | Pooled]]) -> Table:
    table = Table(title="Flicker, motion, drift, repetition", title_justify="left")
    table.add_column("video", overflow="fold")
    for name in ("flicker", "motion", *LOOKS, "repetition"):
        table.add_column(name, justify="right")
    for name, video in judged:
        slopes = (
            [video.drift[look].slope for look in LOOKS]
            if isinstance(video, Assessment)
            else [video.drift[look] for look in LOOKS]
        )
        table.add_row(
            name,
            f"{video.flicker:.4f}",
            f"{video.motion:.2f} / {video.fast_motion:.2f}",
            *(f"{slope:+.3g}" for slope in slopes),
            _repetition(video),
        )
    return table


def _vbench(names: Sequence[str], scores: Sequence[Mapping[str, float]]) -> Table:
    dimensions = list(dict.fromkeys(dimension for score in scores for dimension in score))
    table = Table(title="VBench", title_justify="left")
    table.add_column("video", overflow="fold")
    for dimension in dimensions:
        table.add_column(dimension.replace("_", " "), justify="right")
    for name, score in zip(names, scores, strict=True):
        table.add_row(name, *(f"{score[dimension]:.4f}" if dimension in score else "—" for dimension in dimensions))
    return table


def _seam(seam: Seam | None) -> str:
    if seam is None or seam.ratio is None:
        return "—"
    return f"{seam.ratio:.2f}" if seam.p is None else f"{seam.ratio:.2f} p {seam.p:.3f}"


def _repetition(video: Assessment | Pooled) -> str:
    if isinstance(video, Pooled) or video.repetition.period is None:
        return "—"
    return f"{video.repetition.period} ({video.repetition.strength:.2f})"


def _text(table: Table) -> str:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # nobody's window to fit into
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return _plain(asdict(value)) if hasattr(value, "__dataclass_fields__") else value
