"""Traces in the Trace Event Format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A process is the server or a rank, a thread one of its lanes. Spans of a lane that overlap without one holding the other
go to further threads of the same name: the format wants the events of a thread nested.
"""

import gzip
import json
import os
import secrets
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from vinf_client._errors import OutputError
from vinf_client._replaceable import check_replaceable
from vinf_client._trace import Trace, TraceLane, TraceSpan

_SHORTEST_NS = 20_000
"""Shorter stretches of computing between two exchanges are not drawn."""

_ROWS = 100
"""Most threads a lane."""


def chrome_trace(trace: Trace) -> dict[str, Any]:
    """Return a trace as the object that the format wants as JSON."""
    zero = min((span.start_ns for span in trace.spans), default=0)
    lives: dict[tuple[int, int], list[TraceSpan]] = defaultdict(list)
    for span in trace.spans:
        lives[(-1 if span.rank is None else span.rank), span.epoch].append(span)
    epochs = {span.epoch for span in trace.spans if span.rank is not None}
    events: list[dict[str, Any]] = []
    for pid, ((rank, epoch), spans) in enumerate(sorted(lives.items(), key=lambda life: (life[0][1], life[0][0])), 1):
        name = "server" if rank < 0 else f"rank {rank}" + (f", launch {epoch}" if len(epochs) > 1 else "")
        events.append(_metadata("process_name", pid, 0, {"name": name}))
        events.append(_metadata("process_sort_index", pid, 0, {"sort_index": pid}))
        events += _process(pid, spans, zero)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "generation_id": trace.generation_id,
            "start_time": datetime.fromtimestamp(zero / 1e9, UTC).isoformat(),
            "left_out_spans": trace.left_out_count,
        },
    }


def write_chrome_trace(trace: Trace, path: Path) -> Path:
    """Write a trace as JSON, compressed where the name ends in .gz; whoever finds the file finds it whole.

    Raises:
        OutputError: it cannot be written there.
    """
    check_replaceable(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                write_json(trace, file, compressed=path.suffix == ".gz")
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def write_json(trace: Trace, file: IO[bytes], *, compressed: bool) -> None:
    """Write a trace as JSON."""
    data = json.dumps(chrome_trace(trace), separators=(",", ":")).encode()
    file.write(gzip.compress(data, mtime=0) if compressed else data)


def _process(pid: int, spans: Sequence[TraceSpan], zero: int) -> Iterator[dict[str, Any]]:
    lanes: dict[TraceLane, list[TraceSpan]] = defaultdict(list)
    for span in spans:
        lanes[span.lane].append(span)
    for number, lane in enumerate(TraceLane):
        for row, nested in enumerate(_rows(lanes.get(lane, ()))):
            tid = number * _ROWS + row + 1
            yield _metadata("thread_name", pid, tid, {"name": lane.value})
            yield _metadata("thread_sort_index", pid, tid, {"sort_index": tid})
            for span in nested:
                yield _event(pid, tid, span.name, lane, span.start_ns - zero, span.duration_ns, _arguments(span))
            if lane is TraceLane.COMPUTE:
                for start_ns, end_ns in _between(nested, lanes.get(TraceLane.COMMUNICATE, ())):
                    yield _event(pid, tid, "computing", lane, start_ns - zero, end_ns - start_ns, {})


def _rows(spans: Sequence[TraceSpan]) -> list[list[TraceSpan]]:
    """Spread spans over rows in which one either holds the other or does not touch it."""
    rows: list[tuple[list[TraceSpan], list[int]]] = []
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.duration_ns)):
        for row, open_ends in (*rows, ([], [])):
            while open_ends and open_ends[-1] <= span.start_ns:
                open_ends.pop()
            if open_ends and span.end_ns > open_ends[-1]:
                continue  # it overlaps one that ends before it
            if not row and len(rows) < _ROWS:
                rows.append((row, open_ends))
            row.append(span)
            open_ends.append(span.end_ns)
            break
    return [row for row, _ in rows]


def _between(steps: Sequence[TraceSpan], pauses: Sequence[TraceSpan]) -> Iterator[tuple[int, int]]:
    """Yield the stretches of the steps in which none of the pauses lasted."""
    pauses = sorted(pauses, key=lambda span: span.start_ns)
    position = 0
    for step in steps:
        start = step.start_ns
        while position < len(pauses) and pauses[position].start_ns < step.end_ns:
            pause = pauses[position]
            if pause.start_ns - start >= _SHORTEST_NS:
                yield start, pause.start_ns
            start = max(start, pause.end_ns)
            position += 1
        if step.end_ns - start >= _SHORTEST_NS:
            yield start, step.end_ns


def _arguments(span: TraceSpan) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if span.step:
        arguments["step"] = span.step
    if span.frames:
        arguments["first_frame"], arguments["frames"] = span.frames.start, len(span.frames)
    if span.communicate_ns:
        arguments["communicate_ms"] = round(span.communicate_ns / 1e6, 3)
    if span.lane is TraceLane.TRANSFER and span.duration_ns:
        arguments["hidden"] = f"{max(0.0, 1 - span.communicate_ns / span.duration_ns):.0%}"
    return arguments


def _event(
    pid: int, tid: int, name: str, lane: TraceLane, start_ns: int, duration_ns: int, arguments: dict[str, Any]
) -> dict[str, Any]:
    """A complete event; its times are in microseconds."""
    shown = f"{name} {arguments['step']}" if name == "step" and "step" in arguments else name
    event = {"ph": "X", "pid": pid, "tid": tid, "name": shown, "cat": lane.value}
    event |= {"ts": start_ns / 1000, "dur": duration_ns / 1000}
    return event | ({"args": arguments} if arguments else {})


def _metadata(name: str, pid: int, tid: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": tid, "name": name, "args": arguments}
