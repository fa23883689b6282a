"""Frames by index, in slices, in any order."""

from __future__ import annotations

import asyncio
import errno
import os
import random

import pytest

from tests.server.fakes import frame_bytes, until
from tests.support.remains import opened_below
from vinf_server.front.errors import FrameDamagedError, FrameEvictedError
from vinf_server.front.frames.checksum import crc32c
from vinf_server.front.frames.frame_index import FrameIndexWriter
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
        write = asyncio.create_task(file.write(0, 0, bytes(SIZE), frame_size=SIZE))
        await asyncio.sleep(0)
        file.close()
        assert await write
        await asyncio.to_thread(spool.close)
        assert not opened_below(file.path.parent)

    asyncio.run(scenario())


async def written(spool, *, frames=6, name="one"):
    """A file with frames of two slices each, as a killed server leaves it."""
    file = spool.file(name, frame_count=8, frame_size=SIZE)
    for index in range(frames):
        data = frame_bytes(1, index, SIZE)
        await file.write(index, 0, data[:400], frame_size=SIZE)
        await file.write(index, 400, data[400:], frame_size=SIZE)
    return file


def test_another_server_finds_the_frames_that_are_whole(spool):
    async def scenario():
        file = await written(spool)
        for verify in (True, False):
            again = spool.file("one", frame_count=8, frame_size=SIZE)
            assert await again.recover(verify=verify) == 0
            assert (again.completed_count, again.next_missing) == (6, 6)
            for index in range(6):
                assert again.crc32c(index) == file.crc32c(index) == crc32c(frame_bytes(1, index, SIZE))
                assert again.complete_time_us(index) == file.complete_time_us(index)

    asyncio.run(scenario())


def test_a_frame_without_a_record_is_made_again(spool):
    async def scenario():
        file = await written(spool)
        await file.write(6, 0, bytes(400), frame_size=SIZE)
        again = spool.file("one", frame_count=8, frame_size=SIZE)
        await again.recover(verify=True)
        assert not again.is_complete(6)
        assert await again.write(6, 0, frame_bytes(1, 6, SIZE), frame_size=SIZE)
        assert again.next_missing == 7

    asyncio.run(scenario())


@pytest.mark.parametrize("cut", range(1, 21))
def test_a_record_that_was_cut_off_is_ignored_and_overwritten(spool, cut):
    async def scenario():
        file = await written(spool)
        index = file.path.with_name("frames.index")
        data = index.read_bytes()
        index.write_bytes(data[:-cut])
        again = spool.file("one", frame_count=8, frame_size=SIZE)
        await again.recover(verify=True)
        assert (again.completed_count, again.next_missing) == (5, 5)
        for frame in (5, 6):
            assert await again.write(frame, 0, frame_bytes(1, frame, SIZE), frame_size=SIZE)
        third = spool.file("one", frame_count=8, frame_size=SIZE)
        await third.recover(verify=True)
        assert third.next_missing == 7

    asyncio.run(scenario())


def test_records_behind_a_damaged_one_count_for_nothing(spool):
    async def scenario():
        file = await written(spool)
        index = file.path.with_name("frames.index")
        data = bytearray(index.read_bytes())
        data[8 + 3 * 20 + 5] ^= 1
        index.write_bytes(data)
        again = spool.file("one", frame_count=8, frame_size=SIZE)
        await again.recover(verify=True)
        assert again.completed_count == 3
        index.write_bytes(b"of another version" * 10)
        other = spool.file("one", frame_count=8, frame_size=SIZE)
        await other.recover(verify=True)
        assert other.completed_count == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("damage", ["changed", "short", "gone"])
def test_frames_that_do_not_match_are_found_or_never_delivered(spool, damage):
    async def scenario():
        file = await written(spool)
        data = bytearray(file.path.read_bytes())
        if damage == "gone":
            file.path.unlink()
        elif damage == "short":
            file.path.write_bytes(data[: 2 * SIZE + 1])
        else:
            data[2 * SIZE] ^= 1
            file.path.write_bytes(data)
        found = {"changed": (1, 5, 2), "short": (4, 2, 2), "gone": (6, 0, 0)}[damage]
        again = spool.file("one", frame_count=8, frame_size=SIZE)
        assert (await again.recover(verify=True), again.completed_count, again.next_missing) == found

        trusting = spool.file("one", frame_count=8, frame_size=SIZE)
        await trusting.recover(verify=False)
        assert trusting.completed_count == 6
        if damage == "gone":
            with pytest.raises(FrameDamagedError):
                await trusting.open_reader()
            return
        descriptor = await trusting.open_reader()
        try:
            assert await trusting.read(descriptor, 0, 2) == bytes(data[: 2 * SIZE])
            with pytest.raises(FrameDamagedError, match=r"frame [12] cannot be read"):
                await trusting.read(descriptor, 1, 2)
        finally:
            os.close(descriptor)

    asyncio.run(scenario())


def test_a_frame_made_again_takes_the_place_of_the_damaged_one(spool):
    async def scenario():
        file = await written(spool)
        data = file.path.read_bytes()
        file.path.write_bytes(b"rubbish" + data[7:])
        again = spool.file("one", frame_count=8, frame_size=SIZE)
        await again.recover(verify=True)
        assert await again.write(0, 0, frame_bytes(1, 0, SIZE), frame_size=SIZE)
        third = spool.file("one", frame_count=8, frame_size=SIZE)
        assert await third.recover(verify=True) == 0
        assert third.next_missing == 6

    asyncio.run(scenario())


def test_a_disk_without_room_for_the_record_loses_nothing(spool, monkeypatch):
    async def scenario():
        file = await written(spool, frames=1)
        append = FrameIndexWriter.append

        def full(self, record):
            os.pwrite(self._descriptor, b"half", self._end)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(FrameIndexWriter, "append", full)
        with pytest.raises(OSError, match="No space"):
            await file.write(1, 0, frame_bytes(1, 1, SIZE), frame_size=SIZE)
        assert not file.is_complete(1)
        monkeypatch.setattr(FrameIndexWriter, "append", append)
        assert await file.write(1, 0, frame_bytes(1, 1, SIZE), frame_size=SIZE)
        again = spool.file("one", frame_count=8, frame_size=SIZE)
        await again.recover(verify=True)
        assert again.next_missing == 2

    asyncio.run(scenario())


def test_what_belongs_to_nobody_is_removed(spool, tmp_path):
    async def scenario():
        known, unknown = "0123456789ab-0123456789abcdef0123", "0123456789ab-0123456789abcdef0124"
        file, other = await written(spool, name=known), await written(spool, name=unknown)
        mine = tmp_path / "spool" / "mine"
        mine.mkdir()
        await spool.remove_others([known])
        assert file.path.exists()
        assert not other.path.parent.exists()
        await spool.remove(known)
        assert list((tmp_path / "spool").iterdir()) == [mine]

    asyncio.run(scenario())


def test_dropped_frames_give_their_room_back_and_stay_dropped(spool):
    """Also for a server that takes the folder up later, which must not make them again."""
    size = 1 << 16

    async def scenario():
        file = spool.file("one", frame_count=64, frame_size=size)
        for index in range(48):
            await file.write(index, 0, frame_bytes(1, index, size), frame_size=size)
        before = file.path.stat().st_blocks
        descriptor = await file.open_reader()
        file.drop_before(40)
        file.drop_before(3)  # those are gone already
        assert (file.first_available, file.next_missing, file.completed_count) == (40, 48, 48)
        assert not await file.write(7, 0, frame_bytes(1, 7, size), frame_size=size)
        try:
            with pytest.raises(FrameEvictedError) as caught:
                await file.read(descriptor, 39, 1)
            assert caught.value.metadata["firstAvailableFrameIndex"] == "40"
            assert await file.read(descriptor, 40, 1) == frame_bytes(1, 40, size)
        finally:
            os.close(descriptor)
        # Another thread gives the room back.
        await asyncio.wait_for(until(lambda: file.path.stat().st_blocks <= before - 40 * size // 512), 10)
        file.close()

        for verify in (True, False):
            again = spool.file("one", frame_count=64, frame_size=size)
            assert await again.recover(verify=verify) == 0
            assert (again.first_available, again.next_missing, again.completed_count) == (40, 48, 48)

    asyncio.run(scenario())


def test_only_complete_frames_are_dropped(spool):
    async def scenario():
        file = spool.file("one", frame_count=8, frame_size=SIZE)
        for index in (0, 1, 3):
            await file.write(index, 0, frame_bytes(1, index, SIZE), frame_size=SIZE)
        file.drop_before(8)
        assert file.first_available == 2
        file.close()

    asyncio.run(scenario())


def test_memory_goes_by_the_frames_that_came(spool):
    """A thousand long videos that wait, or were cancelled before they began, are kept for days."""

    async def scenario():
        file = spool.file("one", frame_count=65_536, frame_size=SIZE)
        assert (file.is_complete(65_535), file.complete_run(0, 65_536), file.complete_time_us(7)) == (False, 0, 0)
        assert sum(len(kept) for kept in (file._complete_time_us, file._crc32c)) == 0
        await file.write(9, 0, frame_bytes(1, 9, SIZE), frame_size=SIZE)
        await file.write(2, 0, frame_bytes(1, 2, SIZE), frame_size=SIZE)
        assert [index for index in range(20) if file.is_complete(index)] == [2, 9]
        assert (file.complete_run(2, 65_536), file.next_missing) == (1, 0)
        assert len(file._complete_time_us) == 10
        file.close()

    asyncio.run(scenario())
