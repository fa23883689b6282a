"""What the rest of the front may know about the group."""

from __future__ import annotations

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.engine.group import Group
from vinf_server.front.errors import WorkersNotReadyError


class EngineStatus:
    """The group of the moment and what the ranks last reported about the model and their memory."""

    def __init__(self) -> None:
        self.group: Group | None = None
        self.known_report: link_pb2.ReadyReport | None = None
        """None before the ranks' first report; it outlives the group that sent it."""

    @property
    def is_ready(self) -> bool:
        """True while the ranks can take an order."""
        return self.group is not None and self.group.is_ready

    @property
    def report(self) -> link_pb2.ReadyReport:
        """The ranks' newest report, or `WorkersNotReadyError`."""
        if self.known_report is None:
            raise WorkersNotReadyError("the ranks are starting and have not reported yet; try again in a few seconds")
        return self.known_report

    @property
    def beats(self) -> list[link_pb2.BeatRequest]:
        """The newest beat of every rank of the group, in rank order."""
        ranks = self.group.ranks if self.group is not None else {}
        return [ranks[rank].beat for rank in sorted(ranks)]
