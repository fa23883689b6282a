"""Orders out, reports in, and the last frame."""

from __future__ import annotations

import asyncio
import errno

import pytest

from tests.server.fakes import create, frame_bytes, normalised_spec
from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf.v1 import generation_pb2
from vinf_server.front.checkpoints import Part
from vinf_server.front.engine.dispatcher import Dispatcher
from vinf_server.front.engine.group import Group, Loss
from vinf_server.front.engine.intake import FrameIntake
from vinf_server.front.generations.generation import (
    CANCELLED,
    CANCELLING,
    FAILED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    SUSPENDED,
    Terms,
)

pytestmark = pytest.mark.fast


class Engine:
    """The front's side of the link, with a group that a test plays."""

    def __init__(self, generations, *, frame_timeout_s=30.0):
        self.generations = generations
        self.dispatcher = Dispatcher(generations, frame_timeout_s=frame_timeout_s)
        self.intake = FrameIntake(generations, self.dispatcher)
        self.group = Group(1, 2)

    def ready(self):
        self.dispatcher.group_ready(self.group)
        return self

    def order(self):
        """The order that was sent last, or None."""
        return None if self.group._orders.empty() else self.group._orders.get_nowait()

    def report(self, **report):
        self.dispatcher.take_report(self.group, pb.AttachRequest(**report))

    def finish(self, generation, outcome=pb.OUTCOME_SUCCEEDED, **fields):
        self.report(
            finished=pb.FinishedReport(
                generation_id=generation.generation_id, outcome=outcome, peak_memory_bytes=[1, 2], **fields
            )
        )

    async def frames(self, generation, *indices):
        size = generation.frames.frame_size
        for index in indices:
            frame = pb.FrameData(frame_index=index, data_size_bytes=size, data=frame_bytes(1, index, size))
            assert await self.intake.store(generation.generation_id, frame)


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 20))


def test_order_carries_the_resolved_specification(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations, seed=5, solver=2, guidance_scale=2.5)
        order = engine.order().generate
        assert (order.generation_id, order.seed, order.solver) == (generation.generation_id, 5, "dpm_solver_pp_2m")
        assert (order.width, order.frame_count, order.step_count, order.guidance_scale) == (64, 16, 4, 2.5)
        assert (order.frame_rate_num, order.frame_rate_den) == (24, 1)
        assert order.temporal_scope.local_window_frames == 16
        assert generation.state == RUNNING

    run(scenario())


def test_order_carries_the_story(generations):
    async def scenario():
        engine = Engine(generations).ready()
        segments = [
            generation_pb2.PromptSegment(start_frame_index=4, prompt="a blue square", transition_frame_count=2),
            generation_pb2.PromptSegment(start_frame_index=9, prompt="a red square", cut=True),
        ]
        scope = generation_pb2.TemporalScope(mode=2, global_frames=4, global_across_cuts=True, global_choice=2)
        create(generations, prompt_segments=segments, temporal_scope=scope)
        order = engine.order().generate
        assert list(order.prompt_segments) == [
            pb.PromptSegment(start_frame_index=4, prompt="a blue square", transition_frame_count=2),
            pb.PromptSegment(start_frame_index=9, prompt="a red square", cut=True),
        ]
        assert order.temporal_scope == pb.Scope(global_frames=4, global_across_cuts=True, key_frames=True)

    run(scenario())


def test_one_order_at_a_time(generations):
    async def scenario():
        engine = Engine(generations)
        first, second = create(generations, frame_count=2), create(generations)
        assert engine.order() is None
        engine.ready()
        assert engine.order().generate.generation_id == first.generation_id
        assert engine.order() is None
        await engine.frames(first, 0, 1)
        engine.finish(first)
        assert first.state == SUCCEEDED
        assert first.peak_memory_bytes == (1, 2)
        assert engine.order().generate.generation_id == second.generation_id

    run(scenario())


def test_reports_become_progress(generations, sample):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        generation_id = generation.generation_id
        engine.report(started=pb.StartedReport(generation_id=generation_id, clip_frame_counts=[9, 7]))
        engine.report(
            progress=pb.ProgressReport(
                generation_id=generation_id, stage=pb.STAGE_DENOISE, completed_step_count=3, step_seconds=0.3
            )
        )
        assert generation.clip_frame_counts == (9, 7)
        assert generation.stage == generation_pb2.GENERATION_STAGE_DENOISE
        assert generation.completed_steps == 3
        assert sample("vinf_denoise_step_duration_seconds_sum", model_name="scripted") == pytest.approx(0.3)

    run(scenario())


def test_success_waits_for_the_last_frame(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation, following = create(generations, frame_count=3), create(generations)
        await engine.frames(generation, 2, 0)
        engine.finish(generation)
        assert (generation.state, following.state) == (RUNNING, PENDING)
        await engine.frames(generation, 1)
        assert (generation.state, following.state) == (SUCCEEDED, RUNNING)

    run(scenario())


def test_frames_that_never_come_fail_it(generations):
    async def scenario():
        engine = Engine(generations, frame_timeout_s=0.02).ready()
        generation, following = create(generations, frame_count=3), create(generations)
        await engine.frames(generation, 0)
        engine.finish(generation)
        while not generation.is_terminal:
            await generation.changed.wait()
        assert (generation.state, generation.failure.reason) == (FAILED, "FRAMES_MISSING")
        assert generation.failure.metadata == {"missingFrameCount": "2", "nextFrameIndex": "1"}
        assert following.state == RUNNING

    run(scenario())


def test_cancel_goes_to_the_ranks(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        engine.order()
        generations.cancel(generation.generation_id)
        assert engine.order().cancel.generation_id == generation.generation_id
        assert generation.state == CANCELLING
        engine.finish(generation, pb.OUTCOME_CANCELLED)
        assert generation.state == CANCELLED

    run(scenario())


def test_cancel_while_only_frames_are_missing_ends_it(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        engine.finish(generation)
        generations.cancel(generation.generation_id)
        assert generation.state == CANCELLED

    run(scenario())


@pytest.mark.parametrize(
    ("reason", "code", "shown"), [("GPU_OUT_OF_MEMORY", 8, "GPU_OUT_OF_MEMORY"), ("no word", 13, "INTERNAL")]
)
def test_reported_failure(generations, reason, code, shown):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        engine.finish(generation, pb.OUTCOME_FAILED, reason=reason, message="what happened")
        assert (generation.failure.code, generation.failure.reason) == (code, shown)
        assert generation.failure.message == "what happened"

    run(scenario())


def invalid(engine, generation):
    message = "frame 3 is black"
    engine.finish(generation, pb.OUTCOME_FAILED, reason="OUTPUT_INVALID", message=message)


def test_case_54_bad_output_is_tried_once_more_from_the_newest_checkpoint(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation, waiting = create(generations), create(generations)
        engine.order()
        await save_checkpoint(generation, 3)
        invalid(engine, generation)
        assert (generation.state, waiting.state) == (RUNNING, PENDING)
        order = engine.order().generate
        assert (order.generation_id, order.resume_step) == (generation.generation_id, 3)
        assert [event.state_reason for event in generation.events] == ["QUEUED", "", "OUTPUT_INVALID", ""]
        invalid(engine, generation)
        assert (generation.state, generation.failure.reason) == (FAILED, "OUTPUT_INVALID")
        assert generation.failure.message == "frame 3 is black"
        assert waiting.state == RUNNING

    run(scenario())


def test_bad_output_while_cancelling_is_the_end(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        generations.cancel(generation.generation_id)
        invalid(engine, generation)
        assert generation.state == CANCELLED

    run(scenario())


def test_bad_output_is_not_counted_as_a_loss(generations):
    async def scenario():
        engine = Engine(generations)
        generation = create(generations)
        for _ in range(2):
            engine.ready()
            lose(engine)
        engine.ready()
        invalid(engine, generation)
        assert (generation.state, generation.idle_loss_count) == (RUNNING, 2)
        lose(engine)
        assert generation.failure.reason == "WORKER_LOST"

    run(scenario())


def test_preempted_generation_waits_and_goes_on_from_its_checkpoint(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        engine.order()
        engine.dispatcher.hold()
        engine.dispatcher.preempt()
        engine.dispatcher.preempt()
        cancel = engine.order().cancel
        assert (cancel.generation_id, cancel.save) == (generation.generation_id, True)
        assert engine.order() is None, "asked twice"
        assert generation.state == RUNNING
        await save_checkpoint(generation, 2)
        engine.finish(generation, pb.OUTCOME_CANCELLED)
        assert (generation.state, generation.state_reason, generation.completed_steps) == (
            PENDING,
            "SERVER_RESTARTED",
            2,
        )
        assert engine.order() is None, "handed out although held"
        lose(engine)
        engine = Engine(generations).ready()
        assert engine.order().generate.resume_step == 2

    run(scenario())


def test_preempted_generation_may_end_before(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations, frame_count=1)
        engine.dispatcher.preempt()
        await engine.frames(generation, 0)
        engine.finish(generation)
        assert generation.state == SUCCEEDED
        following = create(generations)
        engine.finish(following, pb.OUTCOME_CANCELLED)
        assert following.state == FAILED, "only what was preempted may come back cancelled"

    run(scenario())


def test_cancelled_while_preempted_is_cancelled(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        engine.order()
        engine.dispatcher.preempt()
        assert engine.order().cancel.save
        generations.cancel(generation.generation_id)
        assert not engine.order().cancel.save
        engine.finish(generation, pb.OUTCOME_CANCELLED)
        assert generation.state == CANCELLED

    run(scenario())


def test_preempted_and_lost_waits_for_the_next_group(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        engine.dispatcher.preempt()
        lose(engine)
        assert (generation.state, generation.state_reason) == (PENDING, "WORKER_LOST")
        engine.ready()
        assert generation.state == RUNNING

    run(scenario())


def test_nothing_to_preempt(generations):
    async def scenario():
        engine = Engine(generations).ready()
        engine.dispatcher.preempt()
        generation = create(generations)
        engine.order()
        engine.finish(generation)
        engine.dispatcher.preempt()
        assert engine.order() is None
        assert generation.state == RUNNING

    run(scenario())


LOST = Loss(message="rank 1 (pid 7) was lost", cause="connection", rank=1)


async def save_checkpoint(generation, step):
    unfinished = await generation.checkpoints.begin(Part(step, 0, generation.frames.frame_count))
    assert await generation.checkpoints.keep(unfinished)


def lose(engine):
    engine.dispatcher.group_lost(LOST)
    engine.group = Group(engine.group.epoch + 1, engine.group.world_size)


def test_lost_group_interrupts_what_runs_and_the_next_one_goes_on(generations, sample):
    async def scenario():
        engine = Engine(generations).ready()
        generation, waiting = create(generations), create(generations)
        order = engine.order().generate
        assert (list(order.clip_frame_counts), order.resume_step) == ([], 0)
        started = pb.StartedReport(generation_id=generation.generation_id, clip_frame_counts=[9, 7], texts_at_once=2)
        engine.report(started=started)
        start_time_ns = generation.start_time_ns
        await save_checkpoint(generation, 3)
        await engine.frames(generation, 0, 1)
        lose(engine)
        assert (generation.state, generation.completed_steps, generation.frames.completed_count) == (PENDING, 3, 2)
        assert [generations.queue_position(g) for g in (generation, waiting)] == [0, 1]
        assert sample("vinf_generations_running", model_name="scripted") == 0
        engine.ready()
        assert (generation.state, waiting.state) == (RUNNING, PENDING)
        order = engine.order().generate
        assert (order.generation_id, order.seed) == (generation.generation_id, generation.resolved_spec.seed)
        assert (list(order.clip_frame_counts), order.texts_at_once, order.resume_step) == ([9, 7], 2, 3)
        assert generation.start_time_ns == start_time_ns
        assert sample("vinf_generation_resumes_total", model_name="scripted") == 1
        assert sample("vinf_generation_queue_time_seconds_count", model_name="scripted") == 1
        await engine.frames(generation, *range(16))
        engine.finish(generation)
        assert (generation.state, waiting.state) == (SUCCEEDED, RUNNING)

    run(scenario())


def test_another_number_of_ranks_chooses_its_own_clips(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        started = pb.StartedReport(generation_id=generation.generation_id, clip_frame_counts=[9, 7], texts_at_once=2)
        engine.report(started=started)
        await save_checkpoint(generation, 3)
        lose(engine)
        engine.group = Group(2, 3)
        engine.ready()
        order = engine.order().generate
        assert (list(order.clip_frame_counts), order.texts_at_once, order.resume_step) == ([], 0, 3)

    run(scenario())


def test_three_losses_without_progress_fail_it(generations, tmp_path):
    async def scenario():
        engine = Engine(generations)
        generation, waiting = create(generations), create(generations)
        for progress in (lambda: save_checkpoint(generation, 2), lambda: engine.frames(generation, 0, 1)):
            engine.ready()
            await progress()
            lose(engine)
        for _ in range(2):
            engine.ready()
            lose(engine)
            assert generation.state == PENDING
        engine.ready()
        lose(engine)
        assert (generation.state, generation.failure.reason, generation.failure.code) == (FAILED, "WORKER_LOST", 14)
        assert "rank 1 (pid 7) was lost, 3 times without any progress" in generation.failure.message
        assert "stay readable" in generation.failure.message
        assert generation.failure.metadata == {"cause": "connection", "rank": "1", "nextFrameIndex": "2"}
        assert waiting.state == PENDING
        engine.ready()
        assert waiting.state == RUNNING

    run(scenario())


def test_three_losses_before_any_progress_fail_it(generations):
    async def scenario():
        engine = Engine(generations)
        generation = create(generations)
        for state in (PENDING, PENDING, FAILED):
            engine.ready()
            lose(engine)
            assert generation.state == state

    run(scenario())


def test_out_of_memory_fails_it_at_once(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        engine.dispatcher.group_lost(Loss(message="out of memory", cause="exit", reason="GPU_OUT_OF_MEMORY"))
        assert (generation.state, generation.failure.reason, generation.failure.code) == (
            FAILED,
            "GPU_OUT_OF_MEMORY",
            8,
        )

    run(scenario())


def test_cancel_while_the_ranks_are_started_anew(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation, waiting = create(generations), create(generations)
        lose(engine)
        assert generations.cancel(generation.generation_id).state == CANCELLED
        engine.ready()
        assert waiting.state == RUNNING

    run(scenario())


def test_lost_group_while_cancelling_is_the_end(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        generations.cancel(generation.generation_id)
        lose(engine)
        assert generation.state == CANCELLED

    run(scenario())


def test_lost_group_while_only_frames_are_missing(generations):
    async def scenario():
        engine = Engine(generations, frame_timeout_s=0.02).ready()
        generation = create(generations, frame_count=2)
        await save_checkpoint(generation, 4)
        await engine.frames(generation, 0)
        engine.finish(generation)
        lose(engine)
        assert not await generation.changed.wait(timeout_s=0.1), "nothing may come of the frames' deadline"
        assert generation.state == PENDING
        engine.ready()
        assert engine.order().generate.resume_step == 4
        await engine.frames(generation, 0, 1)
        engine.finish(generation)
        assert generation.state == SUCCEEDED

    run(scenario())


def test_report_of_an_older_group_is_dropped(generations):
    async def scenario():
        engine = Engine(generations).ready()
        old = engine.group
        engine.dispatcher.group_lost(LOST)
        generation = create(generations)
        engine.group = Group(2, 2)
        engine.ready()
        finished = pb.FinishedReport(generation_id=generation.generation_id, outcome=pb.OUTCOME_FAILED)
        engine.dispatcher.take_report(old, pb.AttachRequest(finished=finished))
        assert generation.state == RUNNING

    run(scenario())


def test_frame_of_a_finished_generation_is_dropped(generations):
    async def scenario():
        engine = Engine(generations).ready()
        generation = create(generations)
        engine.finish(generation, pb.OUTCOME_FAILED)
        frame = pb.FrameData(frame_index=0, data_size_bytes=12288, data=bytes(12288))
        assert not await engine.intake.store(generation.generation_id, frame)
        assert not await engine.intake.store("unknown", frame)
        assert generation.frames.completed_count == 0

    run(scenario())


def test_broken_disk_fails_the_generation_and_stops_the_ranks(generations, monkeypatch):
    async def scenario():
        engine = Engine(generations).ready()
        generation, following = create(generations), create(generations)
        engine.order()

        def full(*arguments):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(generation.frames, "_write", full)
        frame = pb.FrameData(frame_index=0, data_size_bytes=12288, data=bytes(12288))
        assert not await engine.intake.store(generation.generation_id, frame)
        assert (generation.state, generation.failure.reason) == (FAILED, "SPOOL_FAILED")
        assert "Input/output error" in generation.failure.message
        assert engine.order().cancel.generation_id == generation.generation_id
        assert following.state == PENDING
        engine.finish(generation, pb.OUTCOME_CANCELLED)
        assert following.state == RUNNING

    run(scenario())


def test_full_disk_suspends_the_generation_until_there_is_room(generations, monkeypatch):
    async def scenario():
        engine = Engine(generations).ready()
        generation, following = create(generations, frame_count=2), create(generations, frame_count=1)
        engine.order()
        await engine.frames(generation, 0)
        write = generation.frames._write

        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(generation.frames, "_write", full)
        frame = pb.FrameData(frame_index=1, data_size_bytes=12288, data=frame_bytes(1, 1, 12288))
        assert not await engine.intake.store(generation.generation_id, frame)
        assert (generation.state, generation.state_reason) == (SUSPENDED, "DISK_FULL")
        assert engine.order().cancel.generation_id == generation.generation_id
        assert following.state == PENDING, "the ranks have not stopped yet"
        engine.finish(generation, pb.OUTCOME_CANCELLED)
        assert following.state == RUNNING
        engine.order()

        monkeypatch.setattr(generations.keeper._disk, "room_bytes", lambda **_: -1)
        await generations.tidy()
        assert generation.state == SUSPENDED
        monkeypatch.undo()
        assert generation.frames._write == write
        await generations.tidy()
        assert (generation.state, generation.state_reason) == (PENDING, "QUEUED")
        await engine.frames(following, 0)
        engine.finish(following)
        assert engine.order().generate.generation_id == generation.generation_id
        await engine.frames(generation, 1)
        engine.finish(generation)
        assert generation.state == SUCCEEDED
        assert [event.sequence for event in generation.events] == list(range(1, len(generation.events) + 1))

    run(scenario())


def test_a_clearly_higher_priority_takes_the_ranks_and_gives_them_back(generations):
    async def scenario():
        engine = Engine(generations).ready()
        usual = create(generations)
        assert engine.order().generate.generation_id == usual.generation_id
        urgent = generations.create(normalised_spec(), Terms(priority=7), request_id="", validate_only=False)[0]
        cancel = engine.order().cancel
        assert (cancel.generation_id, cancel.save) == (usual.generation_id, True)
        engine.finish(usual, pb.OUTCOME_CANCELLED)
        assert (usual.state, usual.state_reason) == (PENDING, "PREEMPTED")
        assert engine.order().generate.generation_id == urgent.generation_id
        engine.finish(urgent, pb.OUTCOME_FAILED, reason="INTERNAL", message="for the test")
        assert engine.order().generate.generation_id == usual.generation_id
        assert usual.state == RUNNING

    run(scenario())
