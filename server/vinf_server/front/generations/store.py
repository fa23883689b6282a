"""Where generations are kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from vinf_server.front.generations.generation import Generation, State


class GenerationStore(Protocol):
    """What the front needs from a store; a durable one can take the place of `MemoryStore`."""

    def add(self, generation: Generation) -> None:
        """Keep a new generation; its id sorts after all earlier ones."""

    def get(self, generation_id: str) -> Generation | None:
        """Find one by id."""

    def find_request(self, owner: str, request_id: str) -> Generation | None:
        """Find the one that a client's request_id made."""

    def page(
        self, *, before_id: str, states: Collection[State], limit: int, owner: str | None = None
    ) -> Sequence[Generation]:
        """Up to `limit` generations, newest first, older than `before_id` (empty: from the newest).

        Only those of `owner`, unless it is None.
        """


class MemoryStore:
    """Generations in a dict: they are forgotten when the front ends."""

    def __init__(self) -> None:
        self._by_id: dict[str, Generation] = {}
        self._by_request: dict[tuple[str, str], Generation] = {}

    def add(self, generation: Generation) -> None:
        """Keep a new generation."""
        self._by_id[generation.generation_id] = generation
        if generation.request_id:
            self._by_request[generation.terms.owner, generation.request_id] = generation

    def get(self, generation_id: str) -> Generation | None:
        """Find one by id."""
        return self._by_id.get(generation_id)

    def find_request(self, owner: str, request_id: str) -> Generation | None:
        """Find the one that a client's request_id made."""
        return self._by_request.get((owner, request_id))

    def page(
        self, *, before_id: str, states: Collection[State], limit: int, owner: str | None = None
    ) -> Sequence[Generation]:
        """Up to `limit` generations, newest first."""
        page: list[Generation] = []
        for generation in reversed(self._by_id.values()):
            if before_id and generation.generation_id >= before_id:
                continue
            if states and generation.state not in states:
                continue
            if owner is not None and generation.terms.owner != owner:
                continue
            page.append(generation)
            if len(page) == limit:
                break
        return page
