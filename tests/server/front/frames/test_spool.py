"""Frames by index, in slices, in any order."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from tests.server.fakes import frame_bytes
from vinf_server.front.frames.spool import SliceError

pytestmark = pytest.mark.fast

SIZE = 1000


def test_frames_in_any_order_come_back_by_index(spool):
    async def scenario():
        file = spool.file("one", frame_count=8, frame_size=SIZE)
        order = list(range(8))
        random.Random(1).shuffle(order)
        for index in order:
            assert await file.write(index, 0, frame_bytes(1, index, SIZE), frame_size=SIZE)
        assert file.completed_count == 8
        descriptor = await file.open_reader()
        try:
            assert await file.read(descriptor, 2, 3) == b"".join(frame_bytes(1, i, SIZE) for i in (2, 3, 4))
        finally:
            os.close(descriptor)
            file.close()

    asyncio.run(scenario())


def test_frame_counts_once_all_its_bytes_are_there(spool):
    async def scenario():
        file = spool.file("one", frame_count=1, frame_size=SIZE)
        data = frame_bytes(1, 0, SIZE)
        slices = [(600, 1000), (0, 300), (200, 500), (0, 300)]
        for begin, end in slices:
            assert not await file.write(0, begin, data[begin:end], frame_size=SIZE)
            assert not file.is_complete(0)
        assert await file.write(0, 500, data[500:600], frame_size=SIZE)
        assert file.complete_time_us(0) > 0
        assert not await file.write(0, 0, data, frame_size=SIZE)
        assert file.completed_count == 1
        assert file.path.read_bytes() == data
        file.close()

    asyncio.run(scenario())


def test_concurrent_writes_of_one_frame_complete_it_once(spool):
    async def scenario():
        file = spool.file("one", frame_count=1, frame_size=SIZE)
        data = frame_bytes(1, 0, SIZE)
        results = await asyncio.gather(*(file.write(0, 0, data, frame_size=SIZE) for _ in range(8)))
        assert sorted(results) == [False] * 7 + [True]
        file.close()

    asyncio.run(scenario())


def test_run_ends_at_the_first_gap(spool):
    async def scenario():
        file = spool.file("one", frame_count=6, frame_size=1)
        for index in (0, 1, 3):
            await file.write(index, 0, b"x", frame_size=1)
        assert [file.complete_run(0, 6), file.complete_run(0, 1), file.complete_run(2, 6)] == [2, 1, 0]
        assert [file.complete_run(3, 6), file.complete_run(6, 6)] == [1, 0]
        file.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("index", "offset", "length", "size"),
    [(-1, 0, SIZE, SIZE), (4, 0, SIZE, SIZE), (0, 0, 10, 10), (0, -1, 10, SIZE), (0, 991, 10, SIZE), (0, 0, 0, SIZE)],
)
def test_slice_that_does_not_fit_is_refused(spool, index, offset, length, size):
    async def scenario():
        file = spool.file("one", frame_count=4, frame_size=SIZE)
        with pytest.raises(SliceError):
            await file.write(index, offset, bytes(length), frame_size=size)
        assert not file.path.exists()

    asyncio.run(scenario())


def test_close_during_a_write_closes_after_it(spool):
    async def scenario():
        file = spool.file("one", frame_count=2, frame_size=SIZE)
        before = len(os.listdir("/proc/self/fd"))
        write = asyncio.create_task(file.write(0, 0, bytes(SIZE), frame_size=SIZE))
        await asyncio.sleep(0)
        file.close()
        assert await write
        await asyncio.to_thread(spool.close)
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(scenario())
