"""Spans on their way from the ranks into the trace of their generation."""

from __future__ import annotations

import asyncio
import re
import time

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2
from vinf_server.front.generations.generations import Generations

MAX_SPANS = 5000
"""In one message."""

MAX_NS = 2**53
"""Of a duration: a hundred days."""

_NAME = re.compile(r"[a-z0-9_ -]{1,32}")
_LANES = frozenset(link_pb2.TraceLane.values()) - {link_pb2.TRACE_LANE_UNSPECIFIED}


class TraceError(Exception):
    """What a rank sent is not what the contract says."""


class TraceIntake:
    """Checks what ranks send and keeps it."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    async def store(
        self, request: link_pb2.SendTraceRequest, *, epoch: int, world_size: int, is_same_host: bool
    ) -> None:
        """Keep the spans of one message; those of a generation that nobody knows are dropped.

        Args:
            request: from a rank.
            epoch: of its group.
            world_size: ranks in its group.
            is_same_host: whether its clock is ours.

        Raises:
            TraceError: they are not what the contract says.
        """
        generation = self._generations.find(request.generation_id)
        # One that has ended may still hear of its last moments.
        if generation is None or not generation.start_time_ns:
            return
        if not 0 <= request.rank < world_size:
            raise TraceError(f"there is no rank {request.rank}")
        if len(request.spans) > MAX_SPANS:
            raise TraceError(f"{len(request.spans)} spans came, {MAX_SPANS} are allowed")
        delay_ns = 0 if is_same_host else time.time_ns() - request.send_time_ns
        if not -(2**62) < delay_ns < 2**62:
            raise TraceError(f"send_time_ns: {request.send_time_ns} is no time")
        # Thousands of spans take milliseconds.
        await asyncio.to_thread(_check_all, request, generation.resolved_spec)
        await generation.trace.append(request, epoch=epoch, delay_ns=delay_ns)


def _check_all(request: link_pb2.SendTraceRequest, spec: generation_pb2.GenerationSpec) -> None:
    for span in request.spans:
        _check(span, spec.inference_step_count, spec.frame_count)


def _check(span: link_pb2.TraceSpan, step_count: int, frame_count: int) -> None:
    if span.lane not in _LANES:
        raise TraceError(f"lane {span.lane} is not known")
    if not _NAME.fullmatch(span.name):
        raise TraceError(f"{span.name[:32]!r} is no name of a span")
    if not 0 < span.start_time_ns < 2**62:
        raise TraceError(f"start_time_ns {span.start_time_ns} is no time")
    if not (0 <= span.duration_ns <= MAX_NS and 0 <= span.communicate_ns <= MAX_NS):
        raise TraceError(f"{span.duration_ns} and {span.communicate_ns} ns are not in [0, {MAX_NS}]")
    if not 0 <= span.step <= step_count:
        raise TraceError(f"step {span.step} is not in [0, {step_count}]")
    if not 0 <= span.start_frame_index <= span.start_frame_index + span.frame_count <= frame_count:
        raise TraceError(f"{span.frame_count} frames from {span.start_frame_index} on are not of {frame_count}")
