"""A few at a time: many readers want the same frame at the same moment, and other calls shall not wait for all of them.

The event loop serves first what was ready first. Fifty readers who are woken by one frame would hold it for fifty
messages; a call that comes in meanwhile waits behind them, and once for each step that it takes itself.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Lets so many tasks go on in each pass of the event loop, in the order in which they came.

    Between two passes the loop sees what has arrived in the meantime. Belongs to one event loop.
    """

    def __init__(self, per_pass: int) -> None:
        self._per_pass = per_pass
        self._left = per_pass
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_due = False

    async def take(self) -> None:
        """Go on at once where there is room in this pass, else in a later one."""
        loop = asyncio.get_running_loop()
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._next_pass)
        if self._left and not self._waiting:
            self._left -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_pass(self) -> None:
        self._left, self._is_due = self._per_pass, False
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # its task was cancelled
                turn.set_result(None)
                self._left -= 1
        if self._left < self._per_pass:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._next_pass)
