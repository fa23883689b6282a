"""A generation that makes nothing: what it has done follows from the clock."""

import math
import time
from collections.abc import Iterator
from typing import TypeAlias

from vinf.v1 import generation_pb2 as pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client.testing._pixels import preview_jpeg
from vinf_client.testing._script import Script

_CANCELLED = pb.GenerationError(code=1, reason="CANCEL_REQUESTED", message="the client asked for it")
_LOST = pb.GenerationError(code=14, reason="WORKER_LOST", message="a rank died, as the script of the fake server says")
State: TypeAlias = "pb.GenerationState.ValueType"

_ERRORS: dict[State, pb.GenerationError] = {
    pb.GENERATION_STATE_CANCELLED: _CANCELLED,
    pb.GENERATION_STATE_FAILED: _LOST,
}
_PREVIEW_SIZE = 32  # pixels
_TERMINAL = (pb.GENERATION_STATE_SUCCEEDED, pb.GENERATION_STATE_FAILED, pb.GENERATION_STATE_CANCELLED)


class FakeGeneration:
    """One generation; the caller holds the server's lock."""

    def __init__(
        self,
        generation_id: str,
        request: service_pb.CreateGenerationRequest,
        spec: pb.GenerationSpec,
        script: Script,
    ) -> None:
        self.generation_id = generation_id
        self.request = request
        self.spec = spec
        self.script = script
        self.pending_breaks = {*script.break_at}
        self.pending_silences = {*script.silent_at}
        self.pending_damages = {*script.damage_at}
        self._began = time.monotonic()
        self._created = time.time()
        self._cancelled: float | None = None

    @property
    def step_count(self) -> int:
        """Steps done."""
        total = self.spec.inference_step_count
        if not self.script.step_seconds:
            return total
        return min(total, math.floor(self._passed() / self.script.step_seconds))

    @property
    def next_frame(self) -> int:
        """The first frame that is not there yet."""
        most = self.spec.frame_count
        if self.script.fail_at_frame is not None:
            most = min(most, self.script.fail_at_frame)
        decoding = self._passed() - self._denoise_seconds
        if decoding < 0:
            return 0
        rate = self.script.frame_rate
        return most if rate is None else min(most, math.floor(decoding * rate))

    @property
    def state(self) -> State:
        """Where it stands."""
        if self._cancelled is not None:
            return pb.GENERATION_STATE_CANCELLED
        made, fails = self.next_frame, self.script.fail_at_frame
        if fails is not None and made >= fails:
            return pb.GENERATION_STATE_FAILED
        return pb.GENERATION_STATE_SUCCEEDED if made >= self.spec.frame_count else pb.GENERATION_STATE_RUNNING

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in _TERMINAL

    @property
    def error(self) -> pb.GenerationError | None:
        """Why it ended without success."""
        return _ERRORS.get(self.state)

    def made_at(self, index: int) -> float:
        """Return when a frame was made, in seconds since the Unix epoch."""
        decoding = 0.0 if self.script.frame_rate is None else (index + 1) / self.script.frame_rate
        return self._created + self._denoise_seconds + decoding

    def cancel(self) -> None:
        """End it, unless it has ended."""
        if not self.ended:
            self._cancelled = time.monotonic()

    def until_change(self) -> float:
        """Return the seconds until a step or a frame is done, if nobody interferes."""
        passed, script = self._passed(), self.script
        if script.step_seconds and passed < self._denoise_seconds:
            return (math.floor(passed / script.step_seconds) + 1) * script.step_seconds - passed
        if script.frame_rate is None:
            return 0.0
        decoding = passed - self._denoise_seconds
        return (math.floor(decoding * script.frame_rate) + 1) / script.frame_rate - decoding

    def message(self) -> pb.Generation:
        """Return a snapshot."""
        made, state, error = self.next_frame, self.state, self.error
        has_steps = self.step_count < self.spec.inference_step_count
        events = self.events()
        found = pb.Generation(
            generation_id=self.generation_id,
            state=state,
            resolved_spec=self.spec,
            progress=pb.GenerationProgress(
                stage=pb.GENERATION_STAGE_DENOISE if has_steps else pb.GENERATION_STAGE_DECODE,
                completed_step_count=self.step_count,
                step_count=self.spec.inference_step_count,
                completed_frame_count=made,
                frame_count=self.spec.frame_count,
            ),
            error=error,
            clips=[pb.Clip(start_frame_index=0, frame_count=self.spec.frame_count)],
            state_reason=error.reason if error is not None else "",
            priority=self.request.priority.value if self.request.HasField("priority") else 5,
            labels=self.request.labels,
            detached=self.request.detached,
            sequence=events[-1].sequence,
            first_available_frame_index=min(self.script.evict_before, made),
            next_frame_index=made,
        )
        found.create_time.FromNanoseconds(int(self._created * 1e9))
        found.start_time.FromNanoseconds(int(self._created * 1e9))
        if self.ended:
            found.end_time.FromNanoseconds(int(time.time() * 1e9))
        return found

    def events(self) -> list[pb.GenerationEvent]:
        """Return its changes of state."""
        states = [pb.GENERATION_STATE_PENDING, pb.GENERATION_STATE_RUNNING]
        if self.ended:
            states.append(self.state)
        return [pb.GenerationEvent(sequence=number, state=state) for number, state in enumerate(states, 1)]

    def previews(self, after_step: int) -> Iterator[service_pb.Preview]:
        """Yield the newest previews, where there are some since a step."""
        every = self.request.preview_interval_steps
        step = self.step_count // every * every if every else 0
        if step <= after_step:
            return
        for index in sorted({0, self.spec.frame_count // 2}):
            yield service_pb.Preview(
                frame_index=index,
                completed_step_count=step,
                width=_PREVIEW_SIZE,
                height=_PREVIEW_SIZE,
                jpeg_data=preview_jpeg(index, _PREVIEW_SIZE, _PREVIEW_SIZE),
            )

    def spans(self) -> Iterator[service_pb.TraceSpan]:
        """Yield what the server and the one rank have done so far."""
        now_ns, begin_ns = time.time_ns(), int(self._created * 1e9)
        yield service_pb.TraceSpan(
            lane=service_pb.TRACE_LANE_STATE,
            name="running",
            rank=-1,
            start_time_ns=begin_ns,
            duration_ns=max(0, now_ns - begin_ns),
        )
        step_ns = int(self.script.step_seconds * 1e9)
        for step in range(self.step_count):
            yield service_pb.TraceSpan(
                lane=service_pb.TRACE_LANE_COMPUTE,
                name="step",
                epoch=1,
                start_time_ns=begin_ns + step * step_ns,
                duration_ns=step_ns,
                step=step + 1,
            )
        if self.next_frame:
            denoised_ns, made_ns = (int(t * 1e9) for t in (self.made_at(-1), self.made_at(self.next_frame - 1)))
            yield service_pb.TraceSpan(
                lane=service_pb.TRACE_LANE_DECODE,
                name="decode",
                epoch=1,
                start_time_ns=denoised_ns,
                duration_ns=made_ns - denoised_ns,
                frame_count=self.next_frame,
            )

    @property
    def _denoise_seconds(self) -> float:
        return self.script.step_seconds * self.spec.inference_step_count

    def _passed(self) -> float:
        return (self._cancelled or time.monotonic()) - self._began
