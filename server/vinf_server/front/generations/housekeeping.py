"""What has to be looked at from time to time, because nothing tells that it has changed."""

from __future__ import annotations

import asyncio
import logging

from vinf_server.front.generations.generations import Generations

_log = logging.getLogger(__name__)

_PERIOD_S = 5.0
"""Short beside any retention, and beside what a generation takes that waits for room on the disk."""


async def keep_tidy(generations: Generations, *, period_s: float = _PERIOD_S) -> None:
    """Forget what has expired and go on with what waited for the disk, until cancelled."""
    while True:
        try:
            await generations.tidy()
        except OSError as error:
            _log.error("the data directory cannot be looked at: %s", error)
        await asyncio.sleep(period_s)
