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

    @property
    def future(self) -> asyncio.Future[None]:
        """Done at the next `notify`; shared by all who wait."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        return self._future

    async def wait(self, *, timeout_s: float | None = None) -> bool:
        """Sleep until the next `notify`; False when the time ran out first."""
        # asyncio.wait leaves the shared future alone when this task is cancelled.
        done, _ = await asyncio.wait((self.future,), timeout=timeout_s)
        return bool(done)


async def wait_any(*wakeups: Wakeup) -> None:
    """Sleep until the next `notify` of any of them."""
    await asyncio.wait([wakeup.future for wakeup in wakeups], return_when=asyncio.FIRST_COMPLETED)
