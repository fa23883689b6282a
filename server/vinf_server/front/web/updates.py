"""The stream that keeps a page up to date: a line of JSON when something has changed, and once a second at least."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from vinf.v1.video_generation_service_pb2 import Preview
from vinf_server.front.errors import GenerationNotFoundError
from vinf_server.front.generations.generation import (
    CANCELLING,
    PENDING,
    RUNNING,
    SUSPENDED,
    Generation,
)
from vinf_server.front.generations.generations import Generations
from vinf_server.front.generations.leases import OpenStream
from vinf_server.front.metrics.ranks import STAGES
from vinf_server.front.rpc.server_info import ServerInfoService
from vinf_server.front.rpc.validation import make_page_token
from vinf_server.front.web.lanes import WINDOW_S, Lanes
from vinf_server.front.web.snapshots import generation_dict, line, to_dict, version_of

LOOK_S = 0.2
"""Between two looks at what has changed: faster than people read, slow enough for many pages."""

_SEARCH_S = 1.0
"""Between two looks for generations that others have made."""

_SIGN_S = 1.0
"""Between two lines at most, so that a page notices when they fail to come."""

_NEWEST = 50
"""Generations that have ended and are shown without asking for more."""

_MOST_ACTIVE = 500

_ACTIVE = frozenset({PENDING, RUNNING, CANCELLING, SUSPENDED})


class Updates:
    """What one page is told. Belongs to the event loop.

    Args:
        generations: all of them.
        info: says what the server is.
        lanes: what the ranks do.
        facts: what does not change, such as where the metrics are.
        owner: whose generations are shown.
        chosen_id: the generation whose previews are wanted, and whose lease is held; empty: none.
    """

    def __init__(
        self,
        generations: Generations,
        info: ServerInfoService,
        lanes: Lanes,
        facts: dict[str, Any],
        *,
        owner: str,
        chosen_id: str = "",
    ) -> None:
        self._generations = generations
        self._info = info
        self._lanes = lanes
        self._facts = facts
        self._owner = owner
        self._chosen_id = chosen_id
        self._chosen: Generation | None = None
        self._shown: dict[str, Generation] = {}
        self._searched_at = -_SEARCH_S
        self._versions: dict[str, Hashable] = {}
        self._server: dict[str, Any] = {}
        self._ranks: list[dict[str, Any]] = []
        self._lane_sequence = 0
        self._board_version = 0

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield until the server ends its streams."""
        with self._holding() as held:
            facts = {"stages": STAGES, "lane_seconds": WINDOW_S, "older_page_token": self._older_page_token()}
            message: dict[str, Any] = {"facts": self._facts | facts} | self._news()
            said_at = 0.0
            while True:
                now = time.monotonic()
                if message or now - said_at >= _SIGN_S:
                    said_at = now
                    with held.giving():
                        yield line(message | {"now_ms": time.time_ns() // 1_000_000})
                if self._generations.is_draining:
                    return
                await asyncio.sleep(LOOK_S)
                message = self._news()

    @contextmanager
    def _holding(self) -> Iterator[OpenStream]:
        """Hold the lease of the chosen generation for as long as the page takes what it is sent."""
        try:
            self._chosen = self._generations.get(self._chosen_id, owner=self._owner)
        except GenerationNotFoundError:
            self._chosen_id = ""
        with self._generations.leases.holding(self._chosen_id) as held:
            yield held

    def _news(self) -> dict[str, Any]:
        news: dict[str, Any] = {}
        server = to_dict(self._info.describe())
        del server["server_time"], server["ranks"]
        server["stopping"] = not self._generations.is_accepting
        if server != self._server:
            self._server = news["server"] = server
        ranks = self._lanes.describe()
        if ranks != self._ranks:
            self._ranks = news["ranks"] = ranks
        samples = self._lanes.since(self._lane_sequence)
        if samples:
            self._lane_sequence = samples[-1].sequence
            news["lanes"] = [sample.to_json() for sample in samples]
        changed, gone = self._changed_generations()
        if changed:
            news["generations"] = changed
        if gone:
            news["gone"] = gone
        if self._chosen is not None:
            board = self._chosen.previews
            previews = board.since(self._board_version)
            self._board_version = board.version
            if previews:
                news["previews"] = {"generation_id": self._chosen_id, "pictures": list(map(_preview, previews))}
        return news

    def _changed_generations(self) -> tuple[list[dict[str, Any]], list[str]]:
        now = time.monotonic()
        if now - self._searched_at >= _SEARCH_S:
            self._searched_at = now
            self._shown = self._search()
        gone = [name for name, generation in self._shown.items() if generation.is_forgotten]
        for name in gone:
            del self._shown[name]
            self._versions.pop(name, None)
        changed = []
        for generation_id, generation in self._shown.items():
            version = version_of(generation, self._generations)
            if self._versions.get(generation_id) != version:
                self._versions[generation_id] = version
                changed.append(generation_dict(generation, self._generations))
        return changed, gone

    def _older_page_token(self) -> str:
        """Where ListGenerations goes on behind the newest ones; empty when there are no others."""
        page = self._generations.page(before_id="", states=frozenset(), limit=_NEWEST + 1, owner=self._owner)
        return make_page_token(page[_NEWEST - 1].generation_id) if len(page) > _NEWEST else ""

    def _search(self) -> dict[str, Generation]:
        """Those that are at work or wait, the newest ones, what was shown before, and the chosen one."""
        page = self._generations.page
        found = (
            *page(before_id="", states=_ACTIVE, limit=_MOST_ACTIVE, owner=self._owner),
            *page(before_id="", states=frozenset(), limit=_NEWEST, owner=self._owner),
            *([self._chosen] if self._chosen is not None else []),
        )
        # What was shown stays: a page is to be told when it changes or is deleted.
        return self._shown | {generation.generation_id: generation for generation in found}


def _preview(preview: Preview) -> dict[str, Any]:
    return {
        "frame_index": preview.frame_index,
        "completed_step_count": preview.completed_step_count,
        "jpeg": base64.b64encode(preview.jpeg_data).decode(),
    }
