"""Carries what a rank has recorded to the front, beside the engine's own thread."""

from __future__ import annotations

import logging
import threading
import time

import grpc

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.recorder import Lane, Recorder, Span
from vinf_server.rank.link import Link

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 1.0
"""From one message to the next: what a killed rank takes along."""

BATCH_SPANS = 2000
"""In one message: some 60 KB."""

SEND_SECONDS = 10.0
"""Longest a message may be on its way."""

CLOSE_SECONDS = 2.0
"""Longest the end of a generation waits for the last messages."""

_LANES = {lane: pb.TraceLane.Value(f"TRACE_LANE_{lane.name}") for lane in Lane}


class LinkTrace:
    """The engine's `TraceSink` for one generation, at the front. What the front does not take is lost."""

    def __init__(self, link: Link, rank: int, generation_id: str, recorder: Recorder) -> None:
        self._link = link
        self._rank = rank
        self._generation_id = generation_id
        self._recorder = recorder
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vinf-trace", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what is left, within `CLOSE_SECONDS`."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            is_last = False
            while not is_last:
                is_last = self._closing.wait(PERIOD_SECONDS)
                while spans := self._recorder.take(BATCH_SPANS):
                    self._link.stub.SendTrace(self._request(spans), metadata=self._link.metadata, timeout=SEND_SECONDS)
        except grpc.RpcError as error:
            detail = error.details() if isinstance(error, grpc.Call) else str(error)
            logger.warning("generation %s: its trace is not complete: %s", self._generation_id, detail)

    def _request(self, spans: list[Span]) -> pb.SendTraceRequest:
        return pb.SendTraceRequest(
            generation_id=self._generation_id,
            rank=self._rank,
            send_time_ns=time.time_ns(),
            left_out_span_count=self._recorder.left_out_count,
            spans=[
                pb.TraceSpan(
                    lane=_LANES[span.lane],
                    name=span.name,
                    start_time_ns=span.start_ns,
                    duration_ns=span.duration_ns,
                    step=span.step,
                    start_frame_index=span.frames.start,
                    frame_count=len(span.frames),
                    communicate_ns=span.communicate_ns,
                )
                for span in spans
            ],
        )
