"""Values made once for many, and kept within a budget."""

from __future__ import annotations

import asyncio

import pytest

from vinf_server.front.frames.cache import SharedCache

pytestmark = pytest.mark.fast


class Value:
    def __init__(self, size_bytes):
        self.size_bytes = size_bytes


class Maker:
    """Makes values of ten bytes when it is told to."""

    def __init__(self):
        self.counts = []
        self.may_go_on = asyncio.Event()

    async def __call__(self, count):
        self.counts.append(count)
        await self.may_go_on.wait()
        return [Value(10) for _ in range(count)]


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


def test_many_who_want_the_same_wait_for_one_making():
    async def scenario():
        cache, make = SharedCache(100), Maker()
        waiting = [asyncio.create_task(cache.fetch([key, "b", "c"][:3], make)) for key in ("a",) * 20]
        neighbour = asyncio.create_task(cache.fetch(["b"], make))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        make.may_go_on.set()
        values = await asyncio.gather(*waiting)
        assert len(set(values)) == 1
        assert await neighbour is cache.get("b")
        assert make.counts == [3]

    run(scenario())


def test_what_is_unwanted_goes_at_once():
    async def scenario():
        sizes = []
        cache, make = SharedCache(100, on_resize=sizes.append), Maker()
        make.may_go_on.set()
        for key in (("a", 1), ("a", 2), ("b", 1)):
            await cache.fetch([key], make)
        cache.drop(lambda key: key[0] == "a")
        assert (cache.get(("a", 1)), cache.get(("a", 2))) == (None, None)
        assert cache.get(("b", 1)) is not None
        assert (cache.size_bytes, sizes[-1]) == (10, 10)

    run(scenario())


def test_what_was_used_longest_ago_goes_first():
    async def scenario():
        sizes = []
        cache, make = SharedCache(30, on_resize=sizes.append), Maker()
        make.may_go_on.set()
        for key in ("a", "b", "c"):
            await cache.fetch([key], make)
        cache.get("a")
        await cache.fetch(["d"], make)
        assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]
        assert sizes == [10, 20, 30, 30]

    run(scenario())


def test_a_value_above_the_budget_is_kept_alone():
    async def scenario():
        cache, make = SharedCache(5), Maker()
        make.may_go_on.set()
        value = await cache.fetch(["a", "b"], make)
        assert cache.get("a") is value
        assert cache.get("b") is None
        assert cache.size_bytes == 10

    run(scenario())


def test_the_first_one_leaving_does_not_stop_the_making():
    async def scenario():
        cache, make = SharedCache(100), Maker()
        first, second = (asyncio.create_task(cache.fetch(["a"], make)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        make.may_go_on.set()
        assert (await second).size_bytes == 10
        assert make.counts == [1]

    run(scenario())


def test_a_failure_reaches_all_and_is_not_kept():
    async def scenario():
        cache, make = SharedCache(100), Maker()

        async def fail(count):
            await make.may_go_on.wait()
            raise OSError("the disk is gone")

        waiting = [asyncio.create_task(cache.fetch(["a"], fail)) for _ in range(3)]
        await asyncio.sleep(0)
        make.may_go_on.set()
        assert [str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == [
            "the disk is gone"
        ] * 3
        assert (await cache.fetch(["a"], make)).size_bytes == 10

    run(scenario())
