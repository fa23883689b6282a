"""The file of a generation's spans: whole records only, bounded, on one clock."""

from __future__ import annotations

import asyncio

import pytest

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_server.front.traces import trace_file
from vinf_server.front.traces.trace_file import TraceFile

pytestmark = pytest.mark.fast


@pytest.fixture
def path(tmp_path):
    return tmp_path / "generation" / "trace"


def message(rank=0, *, spans=1, start=1000, left_out=0):
    span = pb.TraceSpan(lane=pb.TRACE_LANE_COMPUTE, name="step", start_time_ns=start, duration_ns=5)
    return pb.SendTraceRequest(generation_id="g", rank=rank, left_out_span_count=left_out, spans=[span] * spans)


async def read(file):
    return [record async for record in file.records()]


def test_what_was_stored_is_read_in_order_also_by_another_front(path):
    async def scenario():
        file = TraceFile(path)
        assert await read(file) == []
        sent = [message(0), message(1, spans=3), message(0, left_out=7)]
        for number, request in enumerate(sent):
            await file.append(request, epoch=number + 1, delay_ns=0)
        for reader in (file, TraceFile(path)):
            records = await read(reader)
            assert [record.message for record in records] == sent
            assert [record.epoch for record in records] == [1, 2, 3]
        assert file.refused_count == 0
        assert path.stat().st_mode & 0o077 == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("cut", [1, 10, 27])
def test_a_record_that_is_not_whole_is_passed_over_and_cut_off(path, cut):
    async def scenario():
        file = TraceFile(path)
        await file.append(message(0), epoch=1, delay_ns=0)
        await file.append(message(1), epoch=1, delay_ns=0)
        path.write_bytes(path.read_bytes()[:-cut])
        revived = TraceFile(path)
        assert [record.message.rank for record in await read(revived)] == [0]
        await revived.append(message(2), epoch=2, delay_ns=0)
        assert [record.message.rank for record in await read(revived)] == [0, 2]

    asyncio.run(scenario())


def test_damage_loses_a_record_and_not_the_others(path):
    async def scenario():
        file = TraceFile(path)
        for rank in range(3):
            await file.append(message(rank), epoch=1, delay_ns=0)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        assert [record.message.rank for record in await read(file)] == [0, 2]

    asyncio.run(scenario())


def test_it_is_bounded_and_no_rank_takes_the_others_room(path, monkeypatch):
    monkeypatch.setattr(trace_file, "RANK_LIMIT_SPANS", 10)

    async def scenario():
        file = TraceFile(path)
        for _ in range(3):
            await file.append(message(0, spans=4), epoch=1, delay_ns=0)
        await file.append(message(1, spans=4), epoch=1, delay_ns=0)
        await file.append(message(0, spans=4), epoch=2, delay_ns=0)
        kept = [(record.epoch, record.message.rank) for record in await read(file)]
        assert kept == [(1, 0), (1, 0), (1, 1), (2, 0)]
        assert file.refused_count == 4
        monkeypatch.setattr(trace_file, "FILE_LIMIT_BYTES", path.stat().st_size + 10)
        await file.append(message(5), epoch=1, delay_ns=0)
        assert file.refused_count == 5
        assert len(await read(file)) == 4

    asyncio.run(scenario())


def test_times_of_another_host_are_set_right_by_its_fastest_message(path):
    async def scenario():
        file = TraceFile(path)
        hour = 3600 * 10**9
        for delay in (hour + 5_000_000, hour + 200_000, hour + 9_000_000):
            await file.append(message(1), epoch=1, delay_ns=delay)
        await file.append(message(0), epoch=1, delay_ns=0)
        offsets = {(record.message.rank, record.offset_ns) for record in await read(file)}
        assert offsets == {(1, hour + 200_000), (0, 0)}

    asyncio.run(scenario())


def test_a_disk_that_refuses_costs_the_trace_only(path, caplog):
    async def scenario():
        path.parent.write_text("a file where the folder should be")
        file = TraceFile(path)
        for _ in range(3):
            await file.append(message(), epoch=1, delay_ns=0)
        assert file.refused_count == 3

    asyncio.run(scenario())
    assert caplog.text.count("is lost") == 1


def test_nothing_is_written_once_the_generation_is_removed(path):
    async def scenario():
        file = TraceFile(path)
        file.close()
        await file.append(message(), epoch=1, delay_ns=0)
        assert not path.parent.exists()

    asyncio.run(scenario())
