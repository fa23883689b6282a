"""What `vinf top` shows: one look at a server, the rates between two looks, and the picture of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vinf_client._client import Client
from vinf_client._types import Generation, GenerationState, Rank, ServerInfo
from vinf_client.cli.common import as_json
from vinf_client.cli.following import state_text
from vinf_client.progress import Tracker, brief

_LIVE_STATES = (
    GenerationState.RUNNING,
    GenerationState.CANCELLING,
    GenerationState.PENDING,
    GenerationState.SUSPENDED,
)
_MOST_LIVE = 50
_MOST_ENDED = 5
_BAR_WIDTH = 12
_ROOM_FOR_WORDS = 110  # columns
_STYLES = {"running": "bold green", "failed": "red", "cancelled": "yellow", "suspended": "yellow"}


@dataclass(frozen=True, slots=True)
class Job:
    """A generation, with how far it is in words and as a share."""

    generation: Generation
    words: str
    share: float


@dataclass(frozen=True, slots=True)
class Overview:
    """One look at a server."""

    server: str
    info: ServerInfo
    jobs: tuple[Job, ...]  # those that have not ended: running ones first, then in the order of the queue
    ended: tuple[Generation, ...]  # the newest ones
    rates: dict[int, float] = field(default_factory=dict)  # frames per second by rank; none in the first look


class Monitor:
    """Looks at a server again and again, and measures what happened between.

    Args:
        client: of the server.
        server: its address, to be shown.
        clock: seconds, monotonic.
    """

    def __init__(self, client: Client, server: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.server = server
        self._client = client
        self._clock = clock
        self._trackers: dict[str, Tracker] = {}
        self._counts: dict[int, int] = {}
        self._counted_at = 0.0

    def look(self) -> Overview:
        """Ask the server.

        Raises:
            VinfError: it did not answer.
        """
        info = self._client.info()
        live = self._client.list(limit=_MOST_LIVE, states=_LIVE_STATES)
        ended = self._client.list(limit=_MOST_ENDED, states=[state for state in GenerationState if state.terminal])
        rates = self._measure(info.ranks)
        known = self._trackers
        self._trackers = {
            generation.generation_id: known.get(generation.generation_id) or Tracker(self._clock) for generation in live
        }
        jobs = [
            Job(generation, *self._trackers[generation.generation_id].describe(generation.progress))
            for generation in sorted(live, key=_order)
        ]
        return Overview(self.server, info, tuple(jobs), tuple(ended), rates)

    def _measure(self, ranks: Sequence[Rank]) -> dict[int, float]:
        """Return the frames a second of each rank since the look before."""
        now = self._clock()
        passed = now - self._counted_at
        before, self._counts, self._counted_at = self._counts, {rank.rank: rank.frame_count for rank in ranks}, now
        if passed <= 0:
            return {}
        # A rank of a new launch counts from 0 again: what it has is what it made since.
        return {
            rank: (count - before[rank] if count >= before[rank] else count) / passed
            for rank, count in self._counts.items()
            if rank in before
        }


def figures(overview: Overview) -> dict[str, object]:
    """Return everything for programs."""
    info = overview.info
    return {
        "connected": True,
        "time": datetime.now(UTC).isoformat(),
        "server": overview.server,
        "version": info.version,
        "ready": info.ready,
        "start_time": as_json(info.start_time),
        "waiting_generation_count": info.waiting_generation_count,
        "running_generation_count": info.running_generation_count,
        "max_waiting_generation_count": info.limits.max_waiting_generation_count,
        "frames_per_second": round(sum(overview.rates.values()), 3) if overview.rates else None,
        "ranks": [
            {**as_json(rank), "frames_per_second": as_json(overview.rates.get(rank.rank))} for rank in info.ranks
        ],
        "generations": [as_json(job.generation) for job in overview.jobs],
    }


def render(overview: Overview, *, width: int, problem: str = "") -> RenderableType:
    """Return the picture of a look.

    Args:
        overview: the newest one.
        width: of the screen, in columns.
        problem: why it is old; empty when it is not.
    """
    parts: list[RenderableType] = [_head(overview, problem), Text(), _ranks(overview), Text()]
    parts.append(_jobs(overview.jobs, width) if overview.jobs else Text("no generation runs or waits", style="dim"))
    if overview.ended:
        parts += [Text(), _ended(overview.ended)]
    return Group(*parts)


def _head(overview: Overview, problem: str) -> Text:
    info = overview.info
    head = Text.assemble(("vinf ", "bold"), info.version, " at ", (overview.server, "bold"), "  ")
    if problem:
        head.append(problem, "bold red")
    elif info.ready:
        head.append("ready", "bold green")
    else:
        head.append("not ready: the ranks are not up", "bold yellow")
    if info.start_time is not None and not problem:
        now = info.server_time or datetime.now(UTC)
        head.append(f"  up {_span((now - info.start_time).total_seconds())}")
    head.append(
        f"\n{info.running_generation_count} running, {info.waiting_generation_count} of at most "
        f"{info.limits.max_waiting_generation_count} waiting"
    )
    if overview.rates:
        head.append(f", {sum(overview.rates.values()):.1f} frames/s")
    return head


def _ranks(overview: Overview) -> Table:
    rows: list[list[RenderableType]] = []
    for rank in overview.info.ranks:
        host = f"{rank.host}, pid {rank.pid}"
        if not rank.device:
            rows.append([str(rank.rank), Text("starting", "yellow"), host, "", "", "", ""])
            continue
        rate = overview.rates.get(rank.rank)
        rows.append(
            [
                str(rank.rank),
                f"{rank.device} ({rank.device_name})",
                host,
                ProgressBar(total=rank.memory_total_bytes or 1, completed=rank.memory_used_bytes, width=_BAR_WIDTH),
                f"{rank.memory_used_bytes / 2**30:.1f} of {rank.memory_total_bytes / 2**30:.1f} GiB",
                str(rank.frame_count),
                "" if rate is None else f"{rate:.1f}",
            ]
        )
    return _table(["RANK", "~DEVICE", "~HOST", "MEMORY", "", ">FRAMES", ">FRAMES/S"], rows)


def _jobs(jobs: Sequence[Job], width: int) -> Table:
    rows: list[list[RenderableType]] = [
        [
            job.generation.generation_id,
            _state(job.generation),
            ProgressBar(total=1.0, completed=job.share, width=_BAR_WIDTH),
            Text(job.words if width >= _ROOM_FOR_WORDS else brief(job.generation.progress)),
            _prompt(job.generation),
        ]
        for job in jobs
    ]
    return _table(["GENERATION", "STATE", "PROGRESS", "DOING", "~PROMPT"], rows)


def _ended(ended: Sequence[Generation]) -> Table:
    rows: list[list[RenderableType]] = [
        [
            generation.generation_id,
            _state(generation),
            f"{generation.progress.completed_frame_count}/{generation.spec.frame_count}",
            _prompt(generation),
        ]
        for generation in ended
    ]
    return _table(["ENDED", "STATE", ">FRAMES", "~PROMPT"], rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[RenderableType]]) -> Table:
    """Build a table.

    Args:
        titles: of the columns; with ~ its texts give way where the screen is narrow, with > they stand at the right.
        rows: texts and bars.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold cyan")
    for index, title in enumerate(titles):
        name = title.lstrip("~>")
        gives_way = title.startswith("~")
        table.add_column(
            name,
            justify="right" if title.startswith(">") else "left",
            no_wrap=not gives_way,
            min_width=None if gives_way else max(len(name), *(_width(row[index]) for row in rows), 0),
        )
    for row in rows:
        table.add_row(*(_one_line(cell) for cell in row))
    return table


def _one_line(cell: RenderableType) -> RenderableType:
    """Have a text end in an ellipsis where it would be wrapped."""
    if not isinstance(cell, str | Text):
        return cell
    text = Text(cell) if isinstance(cell, str) else cell
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _width(cell: RenderableType) -> int:
    return len(cell) if isinstance(cell, str | Text) else _BAR_WIDTH


def _state(generation: Generation) -> Text:
    return Text(state_text(generation), _STYLES.get(generation.state.value, ""))


def _prompt(generation: Generation) -> Text:
    return Text(" ".join(generation.spec.prompt.split()))


def _order(generation: Generation) -> tuple[bool, int, str]:
    waits = generation.state in (GenerationState.PENDING, GenerationState.SUSPENDED)
    return waits, generation.progress.queue_position, generation.generation_id


def _span(seconds: float) -> str:
    minutes, _ = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
