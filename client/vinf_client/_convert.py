"""Messages, turned into the values users see."""

from datetime import UTC, datetime
from fractions import Fraction

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from vinf.v1 import generation_pb2 as pb
from vinf.v1 import server_info_service_pb2 as info_pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client._translate import code_name
from vinf_client._types import (
    Clip,
    Failure,
    Generation,
    GenerationEvent,
    GenerationSpec,
    GenerationStage,
    GenerationState,
    GlobalChoice,
    ImageDigest,
    ImageFrames,
    InitialNoise,
    Limits,
    Mesh,
    Model,
    Preview,
    Progress,
    PromptSegment,
    Rank,
    ServerInfo,
    Solver,
    TemporalScope,
)

# Enum numbers this client does not know (a newer server) read as UNKNOWN.
_STATES = {
    pb.GENERATION_STATE_PENDING: GenerationState.PENDING,
    pb.GENERATION_STATE_RUNNING: GenerationState.RUNNING,
    pb.GENERATION_STATE_CANCELLING: GenerationState.CANCELLING,
    pb.GENERATION_STATE_SUCCEEDED: GenerationState.SUCCEEDED,
    pb.GENERATION_STATE_FAILED: GenerationState.FAILED,
    pb.GENERATION_STATE_CANCELLED: GenerationState.CANCELLED,
    pb.GENERATION_STATE_SUSPENDED: GenerationState.SUSPENDED,
}
_STAGES = {
    pb.GENERATION_STAGE_QUEUED: GenerationStage.QUEUED,
    pb.GENERATION_STAGE_TEXT: GenerationStage.TEXT,
    pb.GENERATION_STAGE_DENOISE: GenerationStage.DENOISE,
    pb.GENERATION_STAGE_DECODE: GenerationStage.DECODE,
}
_SOLVERS = {
    pb.SOLVER_DDIM: Solver.DDIM,
    pb.SOLVER_DPM_SOLVER_PP_2M: Solver.DPM_PP,
    pb.SOLVER_FLOW_EULER: Solver.FLOW_EULER,
}
_IMAGE_FRAMES = {
    info_pb.IMAGE_FRAMES_UNSPECIFIED: ImageFrames.NONE,
    info_pb.IMAGE_FRAMES_FIRST: ImageFrames.FIRST,
    info_pb.IMAGE_FRAMES_FIRST_AND_LAST: ImageFrames.FIRST_AND_LAST,
    info_pb.IMAGE_FRAMES_ANY: ImageFrames.ANY,
}
_OLDER_SOLVERS = (pb.SOLVER_DDIM, pb.SOLVER_DPM_SOLVER_PP_2M)
"""Those of every model of a server that does not say which suit a model."""
SOLVER_NUMBERS = {solver: number for number, solver in _SOLVERS.items()}
# A server that leaves these out is older than they are, and knows the first kind only.
_NOISES = {
    pb.INITIAL_NOISE_UNSPECIFIED: InitialNoise.INDEPENDENT,
    pb.INITIAL_NOISE_INDEPENDENT: InitialNoise.INDEPENDENT,
    pb.INITIAL_NOISE_FREENOISE: InitialNoise.FREENOISE,
}
NOISE_NUMBERS = {noise: number for number, noise in _NOISES.items()}
_CHOICES = {
    pb.GLOBAL_CHOICE_UNSPECIFIED: GlobalChoice.EVEN,
    pb.GLOBAL_CHOICE_EVEN: GlobalChoice.EVEN,
    pb.GLOBAL_CHOICE_KEY_FRAMES: GlobalChoice.KEY_FRAMES,
}
CHOICE_NUMBERS = {choice: number for number, choice in _CHOICES.items()}
STATE_NUMBERS = {state: number for number, state in _STATES.items()}


def state(number: int) -> GenerationState:
    """Read a state; UNKNOWN for numbers newer than this client."""
    return _STATES.get(number, GenerationState.UNKNOWN)  # type: ignore[call-overload,no-any-return]


def failure(message: pb.GenerationError) -> Failure:
    """Read why a generation ended without success."""
    return Failure(code_name(message.code), message.reason, message.message, dict(message.metadata))


def generation(message: pb.Generation) -> Generation:
    """Read a snapshot of a generation."""
    return Generation(
        generation_id=message.generation_id,
        state=state(message.state),
        spec=_spec(message.resolved_spec),
        progress=_progress(message),
        error=failure(message.error) if message.HasField("error") else None,
        clips=tuple(Clip(clip.start_frame_index, clip.frame_count) for clip in message.clips),
        create_time=_time(message, "create_time"),
        start_time=_time(message, "start_time"),
        first_frame_time=_time(message, "first_frame_time"),
        end_time=_time(message, "end_time"),
        peak_rank_memory_bytes=tuple(message.peak_rank_memory_bytes),
        state_reason=message.state_reason,
        priority=message.priority,
        labels=dict(message.labels),
        detached=message.detached,
        deadline=_time(message, "deadline"),
        expire_time=_time(message, "expire_time"),
        sequence=message.sequence,
        first_available_frame_index=message.first_available_frame_index,
        next_frame_index=message.next_frame_index,
        retention_frame_count=message.retention_frame_count,
    )


def event(message: pb.GenerationEvent) -> GenerationEvent:
    """Read a change of state."""
    return GenerationEvent(
        sequence=message.sequence,
        time=_time(message, "time"),
        state=state(message.state),
        state_reason=message.state_reason,
        message=message.message,
    )


def preview(message: service_pb.Preview) -> Preview:
    """Read a preview."""
    return Preview(
        frame_index=message.frame_index,
        completed_step_count=message.completed_step_count,
        width=message.width,
        height=message.height,
        jpeg=message.jpeg_data,
    )


def server_info(message: info_pb.ServerInfo) -> ServerInfo:
    """Read what a server is and can do."""
    limits = message.limits
    return ServerInfo(
        version=message.version,
        api_version=message.api_version,
        ready=message.ready,
        server_time=_time(message, "server_time"),
        start_time=_time(message, "start_time"),
        models=tuple(_model(model) for model in message.models),
        limits=Limits(
            max_waiting_generation_count=limits.max_waiting_generation_count,
            max_data_bytes=limits.max_data_bytes,
            max_step_count=limits.max_step_count,
            max_guidance_scale=limits.max_guidance_scale,
            max_global_frames=limits.max_global_frames,
            rank_memory_budget_bytes=limits.rank_memory_budget_bytes,
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
        ),
        ranks=tuple(_rank(rank) for rank in message.ranks),
        waiting_generation_count=message.waiting_generation_count,
        running_generation_count=message.running_generation_count,
        mesh=_mesh(message.mesh) if message.HasField("mesh") else None,
    )


def frame_rate(message: pb.Rational) -> Fraction:
    """Read a rate; 0 when it is unset."""
    return Fraction(message.num, message.den) if message.den else Fraction(0)


def _spec(message: pb.GenerationSpec) -> GenerationSpec:
    return GenerationSpec(
        model=message.model,
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        width=message.width,
        height=message.height,
        frame_count=message.frame_count,
        frame_rate=frame_rate(message.frame_rate),
        seed=message.seed,
        inference_step_count=message.inference_step_count,
        guidance_scale=message.guidance_scale,
        solver=_SOLVERS.get(message.solver, Solver.UNKNOWN),
        temporal_scope=_scope(message.temporal_scope) if message.HasField("temporal_scope") else None,
        prompt_segments=tuple(
            PromptSegment(segment.start_frame_index, segment.prompt, segment.transition_frame_count, segment.cut)
            for segment in message.prompt_segments
        ),
        image_conditions=tuple(
            ImageDigest(condition.frame_index, condition.image_sha256) for condition in message.image_conditions
        ),
    )


def _scope(message: pb.TemporalScope) -> TemporalScope:
    return TemporalScope(
        local_window_frames=message.local_window_frames,
        global_frames=message.global_frames,
        phase_timestep=message.phase_timestep,
        phase_bias=message.phase_bias,
        global_across_cuts=message.global_across_cuts,
        initial_noise=_NOISES.get(message.initial_noise, InitialNoise.UNKNOWN),
        global_choice=_CHOICES.get(message.global_choice, GlobalChoice.UNKNOWN),
        overlap_frames=message.overlap_frames,
    )


def _progress(message: pb.Generation) -> Progress:
    progress = message.progress
    return Progress(
        state=state(message.state),
        stage=_STAGES.get(progress.stage, GenerationStage.UNKNOWN),
        completed_step_count=progress.completed_step_count,
        step_count=progress.step_count,
        completed_frame_count=progress.completed_frame_count,
        frame_count=progress.frame_count,
        queue_position=progress.queue_position,
    )


def _model(message: info_pb.ModelInfo) -> Model:
    return Model(
        name=message.name,
        default_width=message.default_width,
        default_height=message.default_height,
        min_width=message.min_width,
        max_width=message.max_width,
        min_height=message.min_height,
        max_height=message.max_height,
        size_multiple=message.size_multiple,
        default_frame_count=message.default_frame_count,
        max_frame_count=message.max_frame_count,
        trained_frame_count=message.trained_frame_count,
        default_frame_rate=frame_rate(message.default_frame_rate),
        default_step_count=message.default_step_count,
        default_guidance_scale=message.default_guidance_scale,
        default_solver=_SOLVERS.get(message.default_solver, Solver.UNKNOWN),
        default_temporal_scope=_scope(message.default_temporal_scope),
        max_prompt_chars=message.max_prompt_chars,
        max_prompt_words=message.max_prompt_words,
        vocabulary=tuple(message.vocabulary),
        max_frame_count_at_default_size=message.max_frame_count_at_default_size,
        image_frames=_IMAGE_FRAMES.get(message.image_frames, ImageFrames.UNKNOWN),
        max_image_count=message.max_image_count,
        min_image_count=message.min_image_count,
        frame_count_step=max(1, message.frame_count_step),
        solvers=tuple(_SOLVERS.get(solver, Solver.UNKNOWN) for solver in message.solvers or _OLDER_SOLVERS),
        single_prompt=message.single_prompt,
    )


def _mesh(message: info_pb.Mesh) -> Mesh:
    return Mesh(
        clip_count=message.clip_count,
        cfg_rank_count=message.cfg_rank_count,
        context_rank_count=message.context_rank_count,
    )


def _rank(message: info_pb.RankInfo) -> Rank:
    return Rank(
        rank=message.rank,
        host=message.host,
        pid=message.pid,
        device=message.device,
        device_name=message.device_name,
        memory_used_bytes=message.memory_used_bytes,
        memory_total_bytes=message.memory_total_bytes,
        frame_count=message.frame_count,
    )


def _time(message: Message, name: str) -> datetime | None:
    if not message.HasField(name):
        return None
    stamp: Timestamp = getattr(message, name)
    return stamp.ToDatetime(tzinfo=UTC)
