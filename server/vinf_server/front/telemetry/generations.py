"""A generation as a tree of spans: queue, text, denoise, decode, deliver, and below those the share of each rank.

The tree is a trace of its own, linked to the call that created the generation, which had returned long before. It is
made when the generation ends, out of what the flight recorder knows; ranks need no OpenTelemetry.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, Status, StatusCode, Tracer, format_trace_id
from opentelemetry.util.types import AttributeValue

from vinf.v1 import generation_pb2
from vinf.v1 import video_generation_service_pb2 as service_pb2
from vinf_server.front.generations.generation import FAILED, Generation
from vinf_server.front.generations.story import FRONT, trace_of

_STAGES = {
    service_pb2.TRACE_LANE_TEXT: "text",
    service_pb2.TRACE_LANE_COMPUTE: "denoise",
    service_pb2.TRACE_LANE_DECODE: "decode",
    service_pb2.TRACE_LANE_DELIVER: "deliver",
}

_KEPT_TRACE_IDS = 1000
"""Of the newest generations, for lines of the log that come after their end."""


class GenerationSpans:
    """Follows the lives of generations. Touched by the event loop only."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: dict[str, Span] = {}
        self._trace_ids: OrderedDict[str, str] = OrderedDict()
        self._exports: set[asyncio.Task[None]] = set()

    def created(self, generation: Generation) -> None:
        """Begin the tree of a generation; called while its CreateGeneration is handled."""
        if not generation.is_terminal:
            self._open[generation.generation_id] = self._root(generation)

    def ended(self, generation: Generation) -> None:
        """Make the tree, and send it off."""
        root = self._open.pop(generation.generation_id, None) or self._root(generation)
        task = asyncio.create_task(self._export(generation, root))
        self._exports.add(task)
        task.add_done_callback(self._exports.discard)

    def trace_id_of(self, generation_id: str) -> str:
        """In hexadecimal digits; empty where it is not known."""
        return self._trace_ids.get(generation_id, "")

    async def close(self) -> None:
        """Finish what was begun; what has not ended goes on under another server, in another trace."""
        await asyncio.gather(*self._exports, return_exceptions=True)
        for root in self._open.values():
            root.end()
        self._open.clear()

    def _root(self, generation: Generation) -> Span:
        call = trace.get_current_span().get_span_context()
        spec = generation.resolved_spec
        root = self._tracer.start_span(
            "generation",
            context=Context(),
            links=[Link(call)] if call.is_valid else [],
            start_time=generation.create_time_ns,
            attributes={
                "vinf.generation_id": generation.generation_id,
                "vinf.model": spec.model,
                "vinf.frame_count": spec.frame_count,
                "vinf.width": spec.width,
                "vinf.height": spec.height,
                "vinf.step_count": spec.inference_step_count,
            },
        )
        self._trace_ids[generation.generation_id] = format_trace_id(root.get_span_context().trace_id)
        while len(self._trace_ids) > _KEPT_TRACE_IDS:
            self._trace_ids.popitem(last=False)
        return root

    async def _export(self, generation: Generation, root: Span) -> None:
        state = generation_pb2.GenerationState.Name(generation.state).removeprefix("GENERATION_STATE_")
        root.set_attribute("vinf.state", state)
        if generation.state == FAILED and generation.failure is not None:
            root.set_attribute("vinf.reason", generation.failure.reason)
            root.set_status(Status(StatusCode.ERROR, generation.failure.reason))
        runs: dict[tuple[int, service_pb2.TraceLane.ValueType], dict[int, _Run]] = {}
        async for message in trace_of(generation):
            for span in message.spans:
                if span.rank == FRONT and span.name == "queued":
                    self._child(root, "queue", span.start_time_ns, span.start_time_ns + span.duration_ns)
                elif span.lane in _STAGES:
                    ranks = runs.setdefault((span.epoch, span.lane), {})
                    ranks.setdefault(span.rank, _Run()).take(span)
        for (epoch, lane), ranks in sorted(runs.items()):
            name, about = _STAGES[lane], {"vinf.epoch": epoch}
            whole = _Run.of(ranks.values())
            stage = self._child(root, name, whole.start_ns, whole.end_ns, about)
            for rank, run in sorted(ranks.items()):
                told = about | {"vinf.rank": rank} | run.attributes()
                self._child(stage, f"{name} on a rank", run.start_ns, run.end_ns, told)
        root.end(end_time=generation.end_time_ns)

    def _child(
        self,
        parent: Span,
        name: str,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Span:
        context = trace.set_span_in_context(parent, Context())
        child = self._tracer.start_span(name, context=context, start_time=start_ns, attributes=attributes)
        child.end(end_time=end_ns)
        return child


class _Run:
    """The spans of one stage on one rank, as one."""

    def __init__(self) -> None:
        self.start_ns = 2**63
        self.end_ns = 0
        self._busy_ns = 0
        self._communicate_ns = 0
        self._step_count = 0
        self._frame_count = 0

    @classmethod
    def of(cls, runs: Iterable[_Run]) -> _Run:
        """From the first begin to the last end."""
        whole = cls()
        for run in runs:
            whole.start_ns, whole.end_ns = min(whole.start_ns, run.start_ns), max(whole.end_ns, run.end_ns)
        return whole

    def take(self, span: service_pb2.TraceSpan) -> None:
        """Add a span."""
        self.start_ns = min(self.start_ns, span.start_time_ns)
        self.end_ns = max(self.end_ns, span.start_time_ns + span.duration_ns)
        self._busy_ns += span.duration_ns
        self._communicate_ns += span.communicate_ns
        self._step_count += bool(span.step)
        self._frame_count += span.frame_count

    def attributes(self) -> dict[str, AttributeValue]:
        """What is worth telling; seconds."""
        found: dict[str, AttributeValue] = {"vinf.busy_seconds": self._busy_ns / 1e9}
        if self._communicate_ns:
            found["vinf.communicate_seconds"] = self._communicate_ns / 1e9
        if self._step_count:
            found["vinf.step_count"] = self._step_count
        if self._frame_count:
            found["vinf.frame_count"] = self._frame_count
        return found
