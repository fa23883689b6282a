"""What the rest of the front may know about the group."""

from __future__ import annotations

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.front.engine.group import Group
from vinf_server.front.errors import WorkersNotReadyError


class EngineStatus:
    """The group of the moment and the limits that the model was last known to have."""

    def __init__(self) -> None:
        self.group: Group | None = None
        self.known_limits: link_pb2.ModelLimits | None = None
        """None before the ranks' first report; they outlive the group that reported them."""

    @property
    def is_ready(self) -> bool:
        """True while the ranks can take an order."""
        return self.group is not None and self.group.is_ready

    @property
    def limits(self) -> link_pb2.ModelLimits:
        """The model's limits, or `WorkersNotReadyError`."""
        if self.known_limits is None:
            raise WorkersNotReadyError("the ranks are starting and have not reported yet; try again in a few seconds")
        return self.known_limits

    @property
    def beats(self) -> list[link_pb2.BeatRequest]:
        """The newest beat of every rank of the group, in rank order."""
        ranks = self.group.ranks if self.group is not None else {}
        return [ranks[rank].beat for rank in sorted(ranks)]
