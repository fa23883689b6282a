"""The engine link over a real unix socket, with ranks that a test plays."""

from __future__ import annotations

import asyncio
import stat
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import pytest

from tests.server.fakes import create, frame_bytes, model_limits, normalised_spec, until
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf.engine.v1 import engine_link_service_pb2_grpc as pb_grpc
from vinf_server.front.checkpoints import UnfinishedPart
from vinf_server.front.engine.checkpoint_intake import CheckpointIntake
from vinf_server.front.engine.dispatcher import Dispatcher
from vinf_server.front.engine.group import Group, Loss
from vinf_server.front.engine.image_supply import ImageSupply
from vinf_server.front.engine.intake import FrameIntake
from vinf_server.front.engine.link import EngineLink, start_link_server
from vinf_server.front.engine.preview_intake import MAX_PICTURES, PreviewIntake
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.engine.trace_intake import TraceIntake
from vinf_server.front.engine.worker_metrics import WorkerMetrics
from vinf_server.front.generations.generation import RUNNING, Failure, Terms

pytestmark = pytest.mark.fast

EPOCH = (("vinf-epoch", "3"),)


@pytest.fixture
def linked(generations, metrics, tmp_path):
    @asynccontextmanager
    async def link():
        status = EngineStatus()
        status.group = Group(3, 2)
        dispatcher = Dispatcher(generations, frame_timeout_s=30)
        servicer = EngineLink(
            status,
            dispatcher,
            FrameIntake(generations, dispatcher),
            CheckpointIntake(generations),
            PreviewIntake(generations),
            TraceIntake(generations),
            ImageSupply(generations),
            WorkerMetrics(metrics),
        )
        address = f"unix:{tmp_path}/e.sock"
        server = await start_link_server(servicer, address)
        async with grpc.aio.insecure_channel(address) as channel:
            try:
                stub = pb_grpc.EngineLinkServiceStub(channel)
                yield SimpleNamespace(status=status, group=status.group, dispatcher=dispatcher, stub=stub)
            finally:
                await server.stop(None)

    return link


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


def ready_report(world_size=2):
    return pb.AttachRequest(ready=pb.ReadyReport(world_size=world_size, model=model_limits()))


def beat(rank, **fields):
    return pb.BeatRequest(**({"rank": rank, "pid": 100 + rank, "device": "cpu"} | fields))


@pytest.mark.parametrize("metadata", [(), (("vinf-epoch", "2"),), (("vinf-epoch", "x"),)])
def test_other_epochs_stay_outside(linked, metadata):
    async def scenario():
        async with linked() as link:
            for call in (link.stub.Attach, link.stub.Beat, link.stub.SendFrames, link.stub.SendCheckpoint):
                stream = call(metadata=metadata)
                assert await stream.code() is grpc.StatusCode.FAILED_PRECONDITION
            preview = link.stub.SendPreview(pb.SendPreviewRequest(), metadata=metadata)
            assert await preview.code() is grpc.StatusCode.FAILED_PRECONDITION

    run(scenario())


def test_only_this_user_may_connect(linked, tmp_path):
    async def scenario():
        async with linked():
            assert stat.S_IMODE((tmp_path / "e.sock").stat().st_mode) == 0o600

    run(scenario())


def test_group_is_ready_when_every_rank_beats_and_the_model_is_loaded(linked, sample):
    async def scenario():
        async with linked() as link:
            attach = link.stub.Attach(metadata=EPOCH)
            await attach.write(ready_report())
            for rank in range(2):
                assert not link.group.is_ready
                stream = link.stub.Beat(metadata=EPOCH)
                await stream.write(beat(rank, device=""))
                await stream.write(beat(rank, frame_count=4, busy_seconds={"decode": 1.5}))
            await link.group.became_ready
            assert link.group.is_ready
            attach.cancel()

    run(scenario())
    assert sample("vinf_worker_up", rank="1", gpu="cpu") == 1
    assert sample("vinf_worker_frames_total", rank="0", gpu="cpu") == 4
    assert sample("vinf_worker_busy_seconds_total", rank="0", gpu="cpu", stage="decode") == 1.5
    assert sample("vinf_worker_busy_seconds_total", rank="0", gpu="cpu", stage="text") == 0


@pytest.mark.parametrize("stream", ["Attach", "Beat"])
@pytest.mark.parametrize("end", ["cancel", "done_writing"])
def test_stream_that_ends_loses_the_group(linked, stream, end):
    async def scenario():
        async with linked() as link:
            call = getattr(link.stub, stream)(metadata=EPOCH)
            await call.write(ready_report() if stream == "Attach" else beat(1))
            await until(lambda: link.group.is_attached or link.group.ranks)
            result = getattr(call, end)()
            if result is not True:
                await result
            loss = await link.group.lost
            assert loss.rank == (0 if stream == "Attach" else 1)
            assert "its connection broke" in loss.message

    run(scenario())


def test_second_attach_is_refused(linked):
    async def scenario():
        async with linked() as link:
            first = link.stub.Attach(metadata=EPOCH)
            await first.write(ready_report())
            await until(lambda: link.group.is_attached)
            assert await link.stub.Attach(metadata=EPOCH).code() is grpc.StatusCode.ALREADY_EXISTS
            assert not link.group.lost.done()
            first.cancel()

    run(scenario())


def test_wrong_world_size_loses_the_group(linked):
    async def scenario():
        async with linked() as link:
            attach = link.stub.Attach(metadata=EPOCH)
            await attach.write(ready_report(3))
            assert "2 ranks were launched, rank 0 reports 3" in (await link.group.lost).message

    run(scenario())


def test_order_out_frames_in(linked, generations):
    async def scenario():
        async with linked() as link:
            attach = link.stub.Attach(metadata=EPOCH)
            await attach.write(ready_report())
            link.dispatcher.group_ready(link.group)
            generation = create(generations, frame_count=3, seed=1)
            order = (await attach.read()).generate
            assert order.generation_id == generation.generation_id
            sender = link.stub.SendFrames(metadata=EPOCH)
            for index in (2, 0, 1):
                data = frame_bytes(1, index, 12288)
                for begin in (0, 8000):
                    frame = pb.FrameData(
                        frame_index=index,
                        data_offset_bytes=begin,
                        data_size_bytes=12288,
                        data=data[begin : begin + 8000],
                    )
                    await sender.write(pb.SendFramesRequest(generation_id=order.generation_id, frame=frame))
            await sender.write(
                pb.SendFramesRequest(generation_id=order.generation_id, complete=pb.SendComplete(frame_count=3))
            )
            await sender.done_writing()
            assert (await sender).stored_frame_count == 3
            finished = pb.FinishedReport(generation_id=order.generation_id, outcome=pb.OUTCOME_SUCCEEDED)
            await attach.write(pb.AttachRequest(finished=finished))
            while not generation.is_terminal:
                await generation.changed.wait()
            assert generation.failure is None
            attach.cancel()

    run(scenario())


def test_an_order_that_has_left_is_kept_no_longer(linked, monkeypatch):
    """It may carry the pixels of many images."""

    async def scenario():
        async with linked() as link:
            left = []
            next_order = link.group.next_order

            async def noted():
                left.append(await next_order())
                return left[-1]

            monkeypatch.setattr(link.group, "next_order", noted)
            attach = link.stub.Attach(metadata=EPOCH)
            link.group.send(pb.AttachResponse(cancel=pb.CancelOrder(generation_id="x")))
            assert (await attach.read()).cancel.generation_id == "x"
            await until(lambda: sys.getrefcount(left[0]) == 2)  # the list's and its own
            attach.cancel()

    run(scenario())


def test_frame_that_does_not_fit_is_refused(linked, generations):
    async def scenario():
        async with linked() as link:
            link.dispatcher.group_ready(link.group)
            generation = create(generations)
            sender = link.stub.SendFrames(metadata=EPOCH)
            frame = pb.FrameData(frame_index=16, data_size_bytes=12288, data=bytes(12288))
            await sender.write(pb.SendFramesRequest(generation_id=generation.generation_id, frame=frame))
            assert await sender.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(scenario())


def test_case_50_frames_of_a_lost_group_are_refused_on_streams_that_were_open(linked, generations):
    """A rank that was stopped and goes on: its next stream has the old epoch, and this one is over."""

    async def scenario():
        async with linked() as link:
            link.dispatcher.group_ready(link.group)
            generation = create(generations, frame_count=2, seed=1)
            sender = link.stub.SendFrames(metadata=EPOCH)

            def message(index):
                frame = pb.FrameData(frame_index=index, data_size_bytes=12288, data=frame_bytes(1, index, 12288))
                return pb.SendFramesRequest(generation_id=generation.generation_id, frame=frame)

            await sender.write(message(0))
            await until(lambda: generation.frames.completed_count == 1)
            link.group.lose(Loss(message="rank 1 was stopped", cause="hang", rank=1))
            await sender.write(message(1))
            assert await sender.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert await sender.details() == "epoch 3 is over"
            assert generation.frames.completed_count == 1
            link.status.group = Group(4, 2)
            for call in (link.stub.SendFrames, link.stub.Beat, link.stub.SendCheckpoint):
                assert await call(metadata=EPOCH).code() is grpc.StatusCode.FAILED_PRECONDITION

    run(scenario())


def test_reports_reach_the_watchdog(linked, generations):
    async def scenario():
        async with linked() as link:
            attach = link.stub.Attach(metadata=EPOCH)
            await attach.write(ready_report())
            link.dispatcher.group_ready(link.group)
            generation_id = create(generations).generation_id
            assert link.group.work.usual_step_s is None
            for seconds in (0.2, 0.4, 0.3):
                progress = pb.ProgressReport(generation_id=generation_id, stage=pb.STAGE_DENOISE, step_seconds=seconds)
                await attach.write(pb.AttachRequest(progress=progress))
            await until(lambda: link.group.work.usual_step_s == 0.3)
            finished = pb.FinishedReport(generation_id=generation_id, outcome=pb.OUTCOME_FAILED)
            await attach.write(pb.AttachRequest(finished=finished))
            await until(lambda: link.group.work is None)
            attach.cancel()

    run(scenario())


def test_counters_survive_a_new_process_of_the_rank(metrics, sample):
    workers = WorkerMetrics(metrics)
    workers.take_beat(1, beat(0, frame_count=10))
    workers.take_beat(1, beat(0, frame_count=15))
    workers.group_lost()
    assert sample("vinf_worker_up", rank="0", gpu="cpu") == 0
    workers.take_beat(2, beat(0, frame_count=2))
    assert sample("vinf_worker_frames_total", rank="0", gpu="cpu") == 17


@pytest.mark.parametrize("cache", ["prompt", "image"])
def test_cache_counts_survive_a_new_process_of_the_rank(metrics, sample, cache):
    workers = WorkerMetrics(metrics)
    hits, misses = f"{cache}_cache_hit_count", f"{cache}_cache_miss_count"

    def counts():
        names = (f"vinf_worker_{cache}_cache_{what}_total" for what in ("hits", "misses"))
        return tuple(sample(name, rank="0", gpu="cpu") for name in names)

    workers.take_beat(1, beat(0))
    assert counts() == (0, 0)
    workers.take_beat(1, beat(0, **{hits: 3, misses: 2}))
    workers.take_beat(1, beat(0, **{hits: 5, misses: 2}))
    workers.group_lost()
    workers.take_beat(2, beat(0, **{misses: 1}))
    assert counts() == (5, 3)


def test_rank_on_another_device_leaves_no_old_gauge(metrics, sample):
    workers = WorkerMetrics(metrics)
    workers.take_beat(1, beat(0))
    workers.take_beat(1, beat(0, device="cuda:0"))
    assert sample("vinf_worker_up", rank="0", gpu="cpu") is None
    assert sample("vinf_worker_up", rank="0", gpu="cuda:0") == 1


def checkpoint_messages(generation, step, start, count, *, size=None, complete=True):
    body = b"".join((8).to_bytes(4, "little") + f"{step:4}{frame:4}".encode() for frame in range(start, start + count))
    part = pb.CheckpointPart(
        generation_id=generation.generation_id, step=step, start_frame_index=start, frame_count=count
    )
    yield pb.SendCheckpointRequest(part=part)
    yield pb.SendCheckpointRequest(data=body[:7])
    yield pb.SendCheckpointRequest(data=body[7:])
    if complete:
        size = len(body) if size is None else size
        yield pb.SendCheckpointRequest(complete=pb.CheckpointComplete(data_size_bytes=size))


async def fetch(link, generation, step, start, count):
    request = pb.FetchCheckpointRequest(
        generation_id=generation.generation_id, step=step, start_frame_index=start, frame_count=count
    )
    return b"".join([answer.data async for answer in link.stub.FetchCheckpoint(request, metadata=EPOCH)])


def test_checkpoints_come_and_go_by_frame(linked, generations, sample):
    async def scenario():
        async with linked() as link:
            generation = create(generations)
            link.dispatcher.group_ready(link.group)

            def send(*arguments, **options):
                messages = checkpoint_messages(generation, *arguments, **options)
                return link.stub.SendCheckpoint(messages, metadata=EPOCH)

            assert not (await send(2, 0, 9, complete=False)).stored
            assert (await send(2, 0, 9)).stored
            assert (await send(2, 9, 7)).stored
            assert generation.checkpoints.newest_step == 2
            data = await fetch(link, generation, 2, 7, 4)
            assert [data[n + 4 : n + 12] for n in range(0, len(data), 12)] == [
                b"   2   7",
                b"   2   8",
                b"   2   9",
                b"   2  10",
            ]
            for arguments in ((3, 0, 1), (2, 10, 7)):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await fetch(link, generation, *arguments)
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            for arguments, options in (((3, 9, 8), {}), ((3, 0, 9), {"size": 5})):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await send(*arguments, **options)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            generations.fail(generation, Failure(13, "INTERNAL", "x"))
            assert not (await send(3, 0, 9)).stored
            with pytest.raises(grpc.aio.AioRpcError):
                await fetch(link, generation, 2, 0, 16)

    run(scenario())
    assert sample("vinf_checkpoints_total", model_name="scripted") == 1
    assert sample("vinf_checkpoint_bytes_total", model_name="scripted") == 16 * 12


def test_a_disk_that_refuses_a_checkpoint_costs_no_generation(linked, generations, monkeypatch):
    async def scenario():
        async with linked() as link:
            generation = create(generations)
            link.dispatcher.group_ready(link.group)

            def full(*arguments):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(UnfinishedPart, "write", full)
            messages = checkpoint_messages(generation, 1, 0, 16)
            assert not (await link.stub.SendCheckpoint(messages, metadata=EPOCH)).stored
            assert generation.state == RUNNING
            assert generation.checkpoints.newest_step == 0

    run(scenario())


def preview_request(generation, *, step=2, width=8, height=8, frame=3, count=1, size=None):
    data = bytes(3 * width * height if size is None else size)
    picture = pb.PreviewPicture(frame_index=frame, width=width, height=height, data=data)
    return pb.SendPreviewRequest(generation_id=generation.generation_id, step=step, pictures=[picture] * count)


def test_previews_are_shown_while_their_generation_is_in_work(linked, generations):
    async def scenario():
        async with linked() as link:
            generation = create(generations)
            board = generation.previews
            await link.stub.SendPreview(preview_request(generation), metadata=EPOCH)
            assert not board.since(0), "it does not run yet"
            link.dispatcher.group_ready(link.group)
            await link.stub.SendPreview(preview_request(generation), metadata=EPOCH)
            (preview,) = board.since(0)
            assert (preview.frame_index, preview.completed_step_count, preview.width) == (3, 2, 64)
            generations.fail(generation, Failure(13, "INTERNAL", "x"))
            await link.stub.SendPreview(preview_request(generation), metadata=EPOCH)
            assert not board.since(0), "it has ended"

    run(scenario())


def test_a_preview_that_outlives_its_group_is_dropped(linked, generations, monkeypatch):
    async def scenario():
        async with linked() as link:
            generation = create(generations)
            link.dispatcher.group_ready(link.group)
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def slow_thread(function, *arguments):
                begun.set()
                await go_on.wait()
                return function(*arguments)

            monkeypatch.setattr("vinf_server.front.engine.preview_intake.asyncio.to_thread", slow_thread)
            call = link.stub.SendPreview(preview_request(generation), metadata=EPOCH)
            await begun.wait()
            link.group.lose(Loss(message="gone", cause="exit"))
            go_on.set()
            await call
            assert not generation.previews.since(0)

    run(scenario())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": 0}, "step 0 is not in [1, 4]"),
        ({"step": 5}, "step 5"),
        ({"frame": -1}, "frame -1 is not in [0, 15]"),
        ({"frame": 16}, "frame 16"),
        ({"width": 0, "height": 0}, "0 x 0 pixels"),
        ({"width": 128, "height": 128}, "128 x 128 pixels are no smaller picture of 64 x 64"),
        ({"width": 1, "height": 60}, "1 x 60 pixels"),
        ({"size": 191}, "191 bytes"),
        ({"size": 193}, "193 bytes"),
        ({"count": MAX_PICTURES + 1}, f"{MAX_PICTURES + 1} pictures came"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(linked, generations, fields, message):
    async def scenario():
        async with linked() as link:
            generation = create(generations)
            link.dispatcher.group_ready(link.group)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await link.stub.SendPreview(preview_request(generation, **fields), metadata=EPOCH)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert message in refused.value.details()
            assert not generation.previews.since(0)
            assert not link.group.lost.done()

    run(scenario())


def test_orders_carry_the_interval(linked, generations):
    async def scenario():
        async with linked() as link:
            terms = Terms(preview_interval_steps=3)
            generations.create(normalised_spec(), terms, request_id="", validate_only=False)
            link.dispatcher.group_ready(link.group)
            assert (await link.group.next_order()).generate.preview_interval_steps == 3

    run(scenario())


def trace_request(generation, *, rank=0, count=1, send_time_ns=0, **fields):
    span = pb.TraceSpan(
        **({"lane": pb.TRACE_LANE_COMPUTE, "name": "step", "start_time_ns": 10**18, "step": 1} | fields)
    )
    return pb.SendTraceRequest(
        generation_id=generation.generation_id, rank=rank, send_time_ns=send_time_ns, spans=[span] * count
    )


async def stored(generation):
    return [record async for record in generation.trace.records()]


def test_spans_are_kept_also_when_their_generation_has_ended(linked, generations):
    async def scenario():
        async with linked() as link:
            generation = create(generations)
            await link.stub.SendTrace(trace_request(generation), metadata=EPOCH)
            assert not await stored(generation), "it never ran"
            link.dispatcher.group_ready(link.group)
            # By the clock of this host, whatever the message says about when it was sent.
            await link.stub.SendTrace(trace_request(generation, rank=1, send_time_ns=5), metadata=EPOCH)
            generations.fail(generation, Failure(13, "INTERNAL", "x"))
            await link.stub.SendTrace(trace_request(generation), metadata=EPOCH)
            records = await stored(generation)
            assert [(record.message.rank, record.epoch, record.offset_ns) for record in records] == [
                (1, 3, 0),
                (0, 3, 0),
            ]
            await generations.delete(generation.generation_id)
            await link.stub.SendTrace(trace_request(generation), metadata=EPOCH)
            assert not generation.trace._path.exists()

    run(scenario())


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 2},
        {"rank": -1},
        {"count": 5001},
        {"lane": 99},
        {"lane": 0},
        {"name": ""},
        {"name": "x" * 33},
        {"name": "a\nb"},
        {"start_time_ns": 0},
        {"duration_ns": -1},
        {"duration_ns": 2**53 + 1},
        {"communicate_ns": -1},
        {"step": -1},
        {"step": 100_000},
        {"start_frame_index": -1},
        {"frame_count": -1},
        {"start_frame_index": 2**62, "frame_count": 2**62},
    ],
)
def test_spans_that_cannot_be_are_refused(linked, generations, fields):
    async def scenario():
        async with linked() as link:
            generation = create(generations)
            link.dispatcher.group_ready(link.group)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await link.stub.SendTrace(trace_request(generation, **fields), metadata=EPOCH)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert not await stored(generation)

    run(scenario())


def test_spans_of_an_older_epoch_are_refused(linked, generations):
    async def scenario():
        async with linked() as link:
            call = link.stub.SendTrace(trace_request(create(generations)), metadata=(("vinf-epoch", "2"),))
            assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION

    run(scenario())
