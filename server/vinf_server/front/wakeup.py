"""One future that any number of tasks wait for."""

from __future__ import annotations

import asyncio


class Wakeup:
    """Tells waiting tasks that something changed, at the price of one future for all of them.

    No wake-up is lost when a task looks at the state and calls `wait` without an await in between.
    """

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def notify(self) -> None:
        """Wake every task that waits now."""
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(None)

    async def wait(self, *, timeout_s: float | None = None) -> bool:
        """Sleep until the next `notify`; False when the time ran out first."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        # asyncio.wait leaves the shared future alone when this task is cancelled.
        done, _ = await asyncio.wait((self._future,), timeout=timeout_s)
        return bool(done)
