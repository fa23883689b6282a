"""Takes generations off the queue, one at a time, and follows what rank 0 reports about them.

No task of its own: every event (a generation was queued, the group is ready, an order ended) calls `_pump`, which sends
the next order when the group is idle. A generation succeeds only when rank 0 says so *and* every frame is in the spool,
because frames travel on other streams than reports and may arrive later.
"""

from __future__ import annotations

import asyncio
import logging
import re

from google.rpc import code_pb2

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2
from vinf_server.front.engine.group import Group, Loss
from vinf_server.front.generations.generation import CANCELLING, RUNNING, SERVER_RESTARTED, Failure, Generation
from vinf_server.front.generations.generations import CONSUMER_SLOW, Generations
from vinf_server.front.generations.work import DISK_FULL, MAX_IDLE_LOSSES

_log = logging.getLogger(__name__)

SOLVER_NAMES = {
    generation_pb2.SOLVER_DDIM: "ddim",
    generation_pb2.SOLVER_DPM_SOLVER_PP_2M: "dpm_solver_pp_2m",
    generation_pb2.SOLVER_FLOW_EULER: "flow_euler",
}

_STAGES = {
    link_pb2.STAGE_TEXT: generation_pb2.GENERATION_STAGE_TEXT,
    link_pb2.STAGE_DENOISE: generation_pb2.GENERATION_STAGE_DENOISE,
    link_pb2.STAGE_DECODE: generation_pb2.GENERATION_STAGE_DECODE,
}

_FAILURE_CODES = {"GPU_OUT_OF_MEMORY": code_pb2.RESOURCE_EXHAUSTED, "IMAGE_DAMAGED": code_pb2.DATA_LOSS}
"""Everything else that ranks report is INTERNAL."""


class Dispatcher:
    """Between the queue and rank 0."""

    def __init__(self, generations: Generations, *, frame_timeout_s: float) -> None:
        self._generations = generations
        self._frame_timeout_s = frame_timeout_s
        self._group: Group | None = None
        self._current: Generation | None = None
        self._group_is_busy = False
        self._is_holding = False
        self._preempted: Generation | None = None
        self._retried: set[str] = set()
        """Generations that have had their second chance after a bad output."""
        self._deadline: asyncio.TimerHandle | None = None
        generations.subscribe(self)

    # ---- the group ----

    def group_ready(self, group: Group) -> None:
        """A group can take orders from now on."""
        self._group = group
        self._group_is_busy = False
        self._pump()

    def group_lost(self, loss: Loss) -> None:
        """No report will come any more: what was in work waits for the next group, unless that makes no sense."""
        self._group = None
        self._group_is_busy = False
        if self._current is None:
            return
        if self._current.state == CANCELLING:
            self._end(None)
        elif loss.reason == "WORKER_LOST" and self._generations.interrupt(self._current):
            _log.warning(
                "generation %s waits for the ranks to be started anew, and goes on after step %d: %s",
                *(self._current.generation_id, self._current.checkpoints.newest_step, loss.message),
            )
            self._let_go()
        else:
            metadata = {"cause": loss.cause, "nextFrameIndex": str(self._next_frame_index())}
            if loss.rank is not None:
                metadata["rank"] = str(loss.rank)
            again = "" if loss.reason != "WORKER_LOST" else f", {MAX_IDLE_LOSSES} times without any progress"
            message = f"{loss.message}{again}; the group is started anew. Frames made so far stay readable"
            code = _FAILURE_CODES.get(loss.reason, code_pb2.UNAVAILABLE)
            self._end(Failure(code, loss.reason, message, metadata))

    # ---- taking the ranks away ----

    @property
    def current(self) -> Generation | None:
        """The generation in work."""
        return self._current

    @property
    def usual_step_s(self) -> float | None:
        """What a step of the order in work takes; None when there is none, or nobody knows."""
        work = self._group.work if self._group is not None else None
        return work.usual_step_s if work is not None else None

    def hold(self) -> None:
        """Hand out nothing more."""
        self._is_holding = True

    def preempt(self) -> None:
        """Take the ranks away from the running generation: they save a checkpoint, and it goes back to the queue.

        It is PENDING, reason PREEMPTED, once they have stopped, unless it ends before. Nothing happens when none runs,
        or when the ranks have finished and only frames are on their way.
        """
        generation = self._current
        if generation is None or generation.state != RUNNING or self._preempted is generation:
            return
        if self._group is not None and self._group_is_busy:
            self._preempted = generation
            self._stop_ranks(generation, save=True)

    # ---- what generations tell ----

    def generation_queued(self) -> None:
        """Start it at once when nothing else runs, or when what runs has to make way for it."""
        if self._generations.should_preempt():
            self.preempt()
        self._pump()

    def cancel_requested(self, generation: Generation) -> None:
        """Ask the ranks to stop at the next step boundary."""
        if self._group is not None and self._group_is_busy:
            self._stop_ranks(generation)
        else:
            # The ranks have finished; only frames were waited for.
            self._end(None)

    # ---- what the intake tells ----

    def frame_stored(self, generation: Generation) -> None:
        """Finish a generation whose last frame arrived after rank 0 called it done."""
        if generation is self._current and not self._group_is_busy:
            self._succeed_or_wait()

    def spool_failed(self, generation: Generation, failure: Failure) -> None:
        """Give a generation up that cannot be stored, and let the ranks stop."""
        if generation is not self._current:
            return
        self._stop_ranks(generation)
        self._end(failure)

    def disk_full(self, generation: Generation, message: str) -> None:
        """Let the ranks stop, and the generation wait until there is room."""
        self._suspend(generation, DISK_FULL, message)

    def readers_slow(self, generation: Generation) -> None:
        """Let the ranks stop, and the generation wait until its readers have caught up."""
        count = generation.terms.retention_frame_count
        self._suspend(generation, CONSUMER_SLOW, f"{count} frames wait to be released by its readers")

    def _suspend(self, generation: Generation, reason: str, message: str) -> None:
        if generation is not self._current:
            return
        self._stop_ranks(generation)
        if generation.state == CANCELLING:
            self._end(None)
            return
        self._let_go()
        self._generations.suspend(generation, reason, message)
        self._pump()

    # ---- what rank 0 reports ----

    def take_report(self, group: Group, report: link_pb2.AttachRequest) -> None:
        """Follow a report of the order in work; one of an older order or group is dropped."""
        if group is not self._group:
            return
        kind = report.WhichOneof("report")
        if kind == "finished":
            self._take_finished(report.finished)
            return
        if kind not in ("started", "progress"):
            return
        generation = self._generations.in_work(getattr(report, kind).generation_id)
        if generation is None:
            return
        if kind == "started":
            self._generations.planned(generation, report.started.clip_frame_counts, report.started.texts_at_once)
        else:
            progress = report.progress
            stage = _STAGES.get(progress.stage, generation.stage)
            self._generations.progressed(generation, stage, progress.completed_step_count, progress.step_seconds)

    def _take_finished(self, report: link_pb2.FinishedReport) -> None:
        if not self._group_is_busy:
            return
        self._group_is_busy = False
        generation = self._current
        if generation is None or generation.generation_id != report.generation_id:
            self._pump()  # it was given up before the ranks had stopped
            return
        generation.peak_memory_bytes = tuple(report.peak_memory_bytes)
        if report.outcome == link_pb2.OUTCOME_SUCCEEDED:
            self._succeed_or_wait()
        elif report.outcome == link_pb2.OUTCOME_CANCELLED and generation.state == CANCELLING:
            self._end(None)
        elif report.outcome == link_pb2.OUTCOME_CANCELLED and generation is self._preempted:
            # While the server stops, it is the next one that goes on with it.
            self._set_back(generation, SERVER_RESTARTED if self._is_holding else "PREEMPTED")
        elif self._may_retry(generation, report):
            _log.warning(
                "generation %s is tried once more after step %d: %s",
                *(generation.generation_id, generation.checkpoints.newest_step, report.message),
            )
            self._retried.add(generation.generation_id)
            self._set_back(generation, report.reason)
        else:
            self._end(_reported_failure(report))

    # ---- inside ----

    def _stop_ranks(self, generation: Generation, *, save: bool = False) -> None:
        """Tell the ranks to give up what they work on; they report when they have."""
        if self._group is not None and self._group_is_busy:
            order = link_pb2.CancelOrder(generation_id=generation.generation_id, save=save)
            self._group.send(link_pb2.AttachResponse(cancel=order))

    def _may_retry(self, generation: Generation, report: link_pb2.FinishedReport) -> bool:
        """A bad output may be a fault of the moment; checkpoints hold nothing of it."""
        return (
            report.outcome == link_pb2.OUTCOME_FAILED
            and report.reason == "OUTPUT_INVALID"
            and generation.state == RUNNING
            and generation.generation_id not in self._retried
        )

    def _set_back(self, generation: Generation, reason: str) -> None:
        self._let_go()
        self._generations.set_back(generation, reason)
        self._pump()

    def _pump(self) -> None:
        """Send the next order when the group is idle and everything before is settled."""
        if self._is_holding or self._group is None or self._group_is_busy or self._current is not None:
            return
        generation = self._generations.start_next()
        if generation is None:
            return
        self._current = generation
        self._group_is_busy = True
        self._group.send(link_pb2.AttachResponse(generate=_order(generation, self._group.world_size)))

    def _succeed_or_wait(self) -> None:
        generation = self._current
        assert generation is not None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if generation.frames.completed_count == generation.frames.frame_count:
            self._let_go()
            self._forget(generation)
            self._generations.succeed(generation)
            self._pump()
        else:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._frame_timeout_s, self._give_up_on_frames)

    def _give_up_on_frames(self) -> None:
        generation = self._current
        assert generation is not None
        missing = generation.frames.frame_count - generation.frames.completed_count
        self._end(
            Failure(
                code_pb2.INTERNAL,
                "FRAMES_MISSING",
                f"the ranks finished, but {missing} of {generation.frames.frame_count} frames did not arrive "
                f"for {self._frame_timeout_s:g} s; frames stored before stay readable",
                {"missingFrameCount": str(missing), "nextFrameIndex": str(self._next_frame_index())},
            )
        )

    def _end(self, failure: Failure | None) -> None:
        """End the generation in work: failed, or cancelled when there is no failure."""
        generation = self._let_go()
        if generation is None:
            return
        self._forget(generation)
        if failure is None:
            self._generations.cancelled(generation)
        else:
            self._generations.fail(generation, failure)
        self._pump()

    def _let_go(self) -> Generation | None:
        """Wait for nothing of the generation in work any more."""
        generation, self._current, self._preempted = self._current, None, None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        return generation

    def _forget(self, generation: Generation) -> None:
        self._retried.discard(generation.generation_id)

    def _next_frame_index(self) -> int:
        assert self._current is not None
        return self._current.frames.next_missing


def _order(generation: Generation, world_size: int) -> link_pb2.GenerateOrder:
    spec = generation.resolved_spec
    scope = spec.temporal_scope
    # What was begun with as many ranks goes on with the same clips, to the same bits; else the ranks choose new ones.
    clips = generation.clip_frame_counts if len(generation.clip_frame_counts) == world_size else ()
    return link_pb2.GenerateOrder(
        generation_id=generation.generation_id,
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        width=spec.width,
        height=spec.height,
        frame_count=spec.frame_count,
        seed=spec.seed,
        step_count=spec.inference_step_count,
        guidance_scale=spec.guidance_scale,
        frame_rate_num=spec.frame_rate.num,
        frame_rate_den=spec.frame_rate.den,
        solver=SOLVER_NAMES[spec.solver],
        temporal_scope=link_pb2.Scope(
            local_window_frames=scope.local_window_frames,
            global_frames=scope.global_frames,
            phase_timestep=scope.phase_timestep,
            phase_bias=scope.phase_bias,
            global_across_cuts=scope.global_across_cuts,
            freenoise=scope.initial_noise == generation_pb2.INITIAL_NOISE_FREENOISE,
            key_frames=scope.global_choice == generation_pb2.GLOBAL_CHOICE_KEY_FRAMES,
            overlap_frames=scope.overlap_frames,
        ),
        prompt_segments=[
            link_pb2.PromptSegment(
                start_frame_index=segment.start_frame_index,
                prompt=segment.prompt,
                transition_frame_count=segment.transition_frame_count,
                cut=segment.cut,
            )
            for segment in spec.prompt_segments
        ],
        image_conditions=[
            link_pb2.ImageCondition(frame_index=condition.frame_index) for condition in spec.image_conditions
        ],
        clip_frame_counts=clips,
        resume_step=generation.checkpoints.newest_step,
        texts_at_once=generation.texts_at_once if clips else 0,
        first_frame_index=generation.frames.next_missing,
        preview_interval_steps=generation.terms.preview_interval_steps,
    )


def _reported_failure(report: link_pb2.FinishedReport) -> Failure:
    reason = report.reason if re.fullmatch(r"[A-Z][A-Z0-9_]{1,61}[A-Z0-9]", report.reason) else "INTERNAL"
    message = report.message or "the ranks ended the order without a reason"
    return Failure(_FAILURE_CODES.get(reason, code_pb2.INTERNAL), reason, message)
