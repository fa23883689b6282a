"""Parts of checkpoints on disk: complete, incomplete, half-written, and gone."""

from __future__ import annotations

import asyncio

import pytest

from vinf_server.front.checkpoints import Part, PartError

pytestmark = pytest.mark.fast


def record(step, frame):
    """A record of another length for every frame."""
    body = f"step {step} frame {frame} ".encode() * (frame + 1)
    return len(body).to_bytes(4, "little") + body


def records(step, start, stop):
    return b"".join(record(step, frame) for frame in range(start, stop))


async def put(folder, step, start, stop):
    unfinished = await folder.begin(Part(step, start, stop - start))
    data = records(step, start, stop)
    for position in range(0, len(data), 50):
        await folder.write(unfinished, data[position : position + 50])
    complete = await folder.keep(unfinished)
    folder.discard(unfinished)
    return complete


async def get(folder, step, start, count):
    return b"".join([piece async for piece in folder.read(step, start, count)])


@pytest.fixture
def files(checkpoints, tmp_path):
    """Names of all files, once the store's thread has done what it was told."""

    def look():
        checkpoints._thread.submit(lambda: None).result()
        return sorted(path.name for path in (tmp_path / "checkpoints").rglob("*") if path.is_file())

    return look


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


def test_any_run_of_frames_comes_back(checkpoints):
    async def scenario():
        folder = checkpoints.folder("g", frame_count=10)
        assert not await put(folder, 3, 4, 10)
        assert folder.newest_step == 0
        assert await put(folder, 3, 0, 4)
        assert folder.newest_step == 3
        for start in range(10):
            for count in range(1, 11 - start):
                assert await get(folder, 3, start, count) == records(3, start, start + count)

    run(scenario())


def test_a_large_part_is_read_in_slices(checkpoints):
    async def scenario():
        folder = checkpoints.folder("g", frame_count=2)
        unfinished = await folder.begin(Part(1, 0, 2))
        data = b"".join((3 << 20).to_bytes(4, "little") + bytes([n]) * (3 << 20) for n in range(2))
        await folder.write(unfinished, data)
        await folder.keep(unfinished)
        pieces = [piece async for piece in folder.read(1, 0, 2)]
        assert max(map(len, pieces)) <= 1 << 20
        assert b"".join(pieces) == data

    run(scenario())


def test_only_the_newest_complete_step_and_newer_ones_stay(checkpoints, files):
    async def scenario():
        folder = checkpoints.folder("g", frame_count=8)
        for step in (2, 5):
            await put(folder, step, 0, 4)
            await put(folder, step, 4, 8)
        assert await put(folder, 9, 0, 4) is False
        assert folder.newest_step == 5
        with pytest.raises(LookupError, match="after step 5"):
            await get(folder, 9, 0, 4)
        with pytest.raises(LookupError):
            await get(folder, 2, 0, 8)
        assert files() == [
            "step-000005-frames-00000000-00000004",
            "step-000005-frames-00000004-00000008",
            "step-000009-frames-00000000-00000004",
        ]
        folder.drop_incomplete()
        assert len(files()) == 2
        assert await put(folder, 9, 4, 8) is False, "the other half went with the group that sent it"
        await put(folder, 4, 0, 4)
        assert folder.newest_step == 5

    run(scenario())


def test_half_written_parts_count_for_nothing(checkpoints, files):
    async def scenario():
        folder = checkpoints.folder("g", frame_count=4)
        unfinished = await folder.begin(Part(1, 0, 4))
        await folder.write(unfinished, b"half")
        assert all(name.endswith(".unfinished") for name in files())
        assert folder.newest_step == 0
        folder.discard(unfinished)
        assert files() == []

    run(scenario())


def test_the_end_of_a_generation_removes_everything(checkpoints, files):
    async def scenario():
        folder, other = (checkpoints.folder(name, frame_count=4) for name in "go")
        await put(folder, 1, 0, 4)
        await put(other, 1, 0, 4)
        late = await folder.begin(Part(2, 0, 4))
        folder.remove()
        assert len(files()) == 1
        with pytest.raises(OSError):
            await folder.keep(late)
        folder.discard(late)
        with pytest.raises(LookupError):
            await get(folder, 1, 0, 4)
        assert await get(other, 1, 0, 4)

    run(scenario())


@pytest.mark.parametrize("part", [Part(0, 0, 4), Part(1, 0, 0), Part(1, -1, 2), Part(1, 2, 3)])
def test_parts_outside_the_video_are_refused(checkpoints, part):
    async def scenario():
        with pytest.raises(PartError, match=r"\[0, 4\]"):
            await checkpoints.folder("g", frame_count=4).begin(part)

    run(scenario())


def test_a_file_that_was_cut_off_is_an_error(checkpoints, tmp_path):
    async def scenario():
        folder = checkpoints.folder("g", frame_count=4)
        await put(folder, 1, 0, 4)
        (path,) = (tmp_path / "checkpoints" / "g").iterdir()
        path.write_bytes(path.read_bytes()[:-60])
        assert await get(folder, 1, 0, 2) == records(1, 0, 2)
        with pytest.raises(OSError):
            await get(folder, 1, 0, 4)

    run(scenario())


def test_another_server_goes_on_from_the_newest_complete_step(checkpoints, files, tmp_path):
    async def scenario():
        folder = checkpoints.folder("g", frame_count=8)
        await put(folder, 9, 0, 4)
        for step in (2, 5):
            # As if the server had been killed before it removed the older one.
            unfinished = await folder.begin(Part(step, 0, 8))
            await folder.write(unfinished, records(step, 0, 8))
            await folder._in_thread(unfinished.finish, tmp_path / "checkpoints" / "g" / unfinished.part.file_name)
        (tmp_path / "checkpoints" / "g" / "step-000007-frames-00000000-00000009").touch()
        (tmp_path / "checkpoints" / "g" / "step-000009-frames-00000004-00000008.1.unfinished").touch()

        again = checkpoints.folder("g", frame_count=8)
        await again.recover()
        assert again.newest_step == 5
        assert await get(again, 5, 1, 6) == records(5, 1, 7)
        assert "step-000005-frames-00000000-00000008" in files()
        assert not any("unfinished" in name or name.startswith(("step-000002", "step-000009")) for name in files())
        assert await put(again, 6, 0, 8)
        nothing = checkpoints.folder("other", frame_count=8)
        await nothing.recover()
        assert nothing.newest_step == 0

    run(scenario())


def test_checkpoints_of_nobody_are_removed(checkpoints, files):
    async def scenario():
        known, unknown = "0123456789ab-0123456789abcdef0123", "0123456789ab-0123456789abcdef0124"
        for name in (known, unknown):
            await put(checkpoints.folder(name, frame_count=4), 1, 0, 4)
        await checkpoints.remove_others([known])
        assert len(files()) == 1

    run(scenario())


def test_a_video_of_fewer_latent_frames_than_frames(checkpoints, files):
    async def scenario():
        folder = checkpoints.folder("g", frame_count=13)

        async def keep(start, stop, total=4, step=2):
            unfinished = await folder.begin(Part(step, start, stop - start, total))
            await folder.write(unfinished, records(step, start, stop))
            return await folder.keep(unfinished)

        assert not await keep(2, 4)
        assert await keep(0, 2)
        assert await get(folder, 2, 1, 3) == records(2, 1, 4)
        for start, count in ((0, 5), (4, 1)):
            with pytest.raises(LookupError, match="frames 0 to 4 after step 2"):
                await get(folder, 2, start, count)
        assert len(files()) == 2

        again = checkpoints.folder("g", frame_count=13)
        await again.recover()
        assert again.newest_step == 2, "the files say of how many"
        assert await get(again, 2, 0, 4) == records(2, 0, 4)

        assert not await keep(0, 2, step=3)
        assert not await keep(2, 5, total=5, step=3), "not of one video"
        with pytest.raises(PartError, match="of 14"):
            await folder.begin(Part(4, 0, 2, 14))
        with pytest.raises(PartError, match="frames 2 to 5 of 4"):
            await folder.begin(Part(4, 2, 3, 4))

    run(scenario())
