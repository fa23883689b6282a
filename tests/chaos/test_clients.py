"""A person of the chaos run leaves nothing behind, however the run ended."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.chaos.clients import Person
from tests.chaos.history import GenerationLog, History

pytestmark = [pytest.mark.fast, pytest.mark.timeout(60)]


class NobodyCreates(Person):
    """Has a generation at once, of a server that is not there."""

    async def _create(self, **_: object) -> str:
        self._history.created("g", GenerationLog(self.name, "plain", submit_time=0))
        return "g"


def test_the_thread_of_a_cancelled_person_ends_though_no_server_answers():
    history, before = History(), set(threading.enumerate())

    async def cancel_in_the_middle() -> None:
        # Port 1 refuses; the thread tries it again and again.
        person = NobodyCreates("anna", "127.0.0.1:1", history, seed=1, specs=("plain",))
        reading = asyncio.create_task(person._uses_the_sdk())
        while not history.readers or not history.readers[0].streams:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # another thread opens it
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await person.close()

    # asyncio.run waits for threads of its pool: it would not return.
    asyncio.run(cancel_in_the_middle())
    (log,) = history.readers
    assert [stream.ended for stream in log.streams] == ["left"]
    assert history.complaints == []
    lasting = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    assert lasting == []
