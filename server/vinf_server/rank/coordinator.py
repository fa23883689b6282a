"""Rank 0's ear and voice: orders from the front, reports to it, over one stream."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import grpc

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.engine.commands import Command
from vinf_core.engine.worker import Outcome
from vinf_core.events import StopWish
from vinf_core.types import Clip, Stage
from vinf_server.rank.convert import OUTCOMES, STAGES, command_from_order
from vinf_server.rank.link import Link


class LinkCoordinator:
    """The engine's `Coordinator` over the engine link.

    The engine's thread calls it and never waits for the network; a thread of gRPC's sends, one of ours receives.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._orders: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[pb.AttachRequest | None] = queue.SimpleQueue()
        self._wish = ("", StopWish.NONE)
        self._thread = threading.Thread(target=self._receive, name="vinf-orders", daemon=True)

    def attach(self, ready: pb.ReadyReport) -> None:
        """Open the stream and report that the group can work."""
        self._reports.put(pb.AttachRequest(ready=ready))
        self._thread.start()

    def detach(self) -> None:
        """Send what is waiting and close our half of the stream."""
        self._reports.put(None)
        self._thread.join(timeout=2)

    def next_order(self, timeout: float) -> Command | None:
        """Wait up to ``timeout`` seconds for the next order."""
        try:
            return self._orders.get(timeout=timeout)
        except queue.Empty:
            return None

    def stop_wish(self, generation_id: str) -> StopWish:
        """Whether the front wants this generation to stop, and how."""
        stopped, wish = self._wish
        return wish if stopped == generation_id else StopWish.NONE

    def started(self, generation_id: str, clips: tuple[Clip, ...], texts_at_once: int) -> None:
        """Report the clips and the texts at once."""
        counts = [clip.count for clip in clips]
        self._report(
            started=pb.StartedReport(generation_id=generation_id, clip_frame_counts=counts, texts_at_once=texts_at_once)
        )

    def progress(self, generation_id: str, stage: Stage, completed_steps: int, step_seconds: float) -> None:
        """Report a stage or a step."""
        self._report(
            progress=pb.ProgressReport(
                generation_id=generation_id,
                stage=STAGES[stage],
                completed_step_count=completed_steps,
                step_seconds=step_seconds,
            )
        )

    def finished(
        self, generation_id: str, outcome: Outcome, reason: str, message: str, peak_memory_bytes: list[int]
    ) -> None:
        """Report the end of a generation."""
        self._report(
            finished=pb.FinishedReport(
                generation_id=generation_id,
                outcome=OUTCOMES[outcome],
                reason=reason,
                message=message,
                peak_memory_bytes=peak_memory_bytes,
            )
        )

    def _report(
        self,
        *,
        started: pb.StartedReport | None = None,
        progress: pb.ProgressReport | None = None,
        finished: pb.FinishedReport | None = None,
    ) -> None:
        self._reports.put(pb.AttachRequest(started=started, progress=progress, finished=finished))

    def _receive(self) -> None:
        try:
            for order in self._link.stub.Attach(self._outgoing(), metadata=self._link.metadata):
                if order.HasField("cancel"):
                    self._stop(order.cancel)
                self._take(order)
            self._link.lost("orders", None)
        except grpc.RpcError as error:
            self._link.lost("orders", error)

    def _stop(self, cancel: pb.CancelOrder) -> None:
        # One for good is not taken back by one that saves first.
        if cancel.save and self.stop_wish(cancel.generation_id) == StopWish.CANCEL:
            return
        self._wish = (cancel.generation_id, StopWish.SUSPEND if cancel.save else StopWish.CANCEL)

    def _take(self, order: pb.AttachResponse) -> None:
        if order.HasField("generate") and order.generate.generation_id == self._wish[0]:
            self._wish = ("", StopWish.NONE)  # one that was suspended goes on
        try:
            command = command_from_order(order)
        except ValueError as error:
            # Refused before any rank heard of it.
            self.finished(order.generate.generation_id, Outcome.FAILED, "INVALID_FIELD", str(error), [])
            return
        if command is not None:
            self._orders.put(command)

    def _outgoing(self) -> Iterator[pb.AttachRequest]:
        while (report := self._reports.get()) is not None:
            yield report
