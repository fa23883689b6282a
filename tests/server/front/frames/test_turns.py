"""A few tasks in each pass of the event loop, in the order in which they came, and nobody forgotten."""

from __future__ import annotations

import asyncio

import pytest

from vinf_server.front.frames.turns import Turns

pytestmark = pytest.mark.fast


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


async def passes_until(done):
    """How often the loop goes round until a condition holds."""
    passes = 0
    while not done():
        await asyncio.sleep(0)
        passes += 1
    return passes


def test_a_call_that_comes_meanwhile_does_not_wait_for_all_readers():
    async def scenario():
        turns, sent, after = Turns(2), [], []

        async def reader(number):
            await turns.take()
            sent.append(number)

        async def call():
            for _ in range(5):  # steps of its own, each behind what was ready before
                await asyncio.sleep(0)
            after.append(len(sent))

        readers = [asyncio.create_task(reader(number)) for number in range(50)]
        calling = asyncio.create_task(call())
        await asyncio.gather(*readers, calling)
        assert sent == list(range(50))
        assert after[0] <= 12, "the call waited for more readers than its own passes let through"

    run(scenario())


def test_alone_nobody_waits():
    async def scenario():
        turns = Turns(2)
        for _ in range(3):
            await turns.take()
            await turns.take()
            assert await passes_until(lambda: turns._left == 2) <= 2

    run(scenario())


def test_who_leaves_while_waiting_takes_nobodys_turn():
    async def scenario():
        turns = Turns(1)
        waiting = [asyncio.create_task(turns.take()) for _ in range(4)]
        await asyncio.sleep(0)
        assert waiting.pop(0).done()
        waiting[0].cancel()
        await asyncio.gather(*waiting[1:])
        assert waiting[0].cancelled()
        assert await passes_until(lambda: not turns._is_due) <= 3

    run(scenario())
