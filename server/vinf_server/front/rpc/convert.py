"""What the front knows, as messages of `vinf.v1`."""

from __future__ import annotations

from importlib.metadata import version

from google.protobuf import timestamp_pb2
from google.rpc import code_pb2

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2, server_info_service_pb2
from vinf_server.flag_values import RankMesh
from vinf_server.front.generations.generation import PENDING, Event, Failure, Generation
from vinf_server.front.generations.generations import Generations
from vinf_server.front.generations.limits import ClientLimits
from vinf_server.front.rpc import spec as ranges
from vinf_server.front.rpc.frame_requests import MAX_DATA_BYTES
from vinf_server.front.rpc.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from vinf_server.front.rpc.memory import largest_frame_count

VERSION = version("vinf")

DRAINING = Failure(
    code_pb2.UNAVAILABLE, "SERVER_DRAINING", "the server is shutting down; the generation goes on after its restart"
)

_IMAGE_FRAMES = {
    "first": server_info_service_pb2.IMAGE_FRAMES_FIRST,
    "first_and_last": server_info_service_pb2.IMAGE_FRAMES_FIRST_AND_LAST,
    "any": server_info_service_pb2.IMAGE_FRAMES_ANY,
}


def timestamp(time_ns: int) -> timestamp_pb2.Timestamp | None:
    """A wall-clock time; None, which leaves a field unset, for 0."""
    if time_ns == 0:
        return None
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(time_ns)
    return stamp


def error_message(failure: Failure | None) -> generation_pb2.GenerationError | None:
    """Why a generation ended early; None when it did not."""
    if failure is None:
        return None
    return generation_pb2.GenerationError(
        code=failure.code, reason=failure.reason, message=failure.message, metadata=failure.metadata
    )


def progress_message(generation: Generation, generations: Generations) -> generation_pb2.GenerationProgress:
    """How far a generation has come."""
    return generation_pb2.GenerationProgress(
        stage=generation.stage,
        completed_step_count=generation.completed_steps,
        step_count=generation.resolved_spec.inference_step_count,
        completed_frame_count=generation.frames.completed_count,
        frame_count=generation.resolved_spec.frame_count,
        queue_position=generations.queue_position(generation) if generation.state == PENDING else 0,
    )


def generation_message(generation: Generation, generations: Generations) -> generation_pb2.Generation:
    """A snapshot of a generation."""
    spec = generation.resolved_spec
    clips, start = [], 0
    for count in generation.clip_frame_counts:
        clips.append(generation_pb2.Clip(start_frame_index=start, frame_count=count))
        start += count
    return generation_pb2.Generation(
        generation_id=generation.generation_id,
        state=generation.state,
        resolved_spec=spec,
        progress=progress_message(generation, generations),
        error=error_message(generation.failure),
        clips=clips,
        create_time=timestamp(generation.create_time_ns),
        start_time=timestamp(generation.start_time_ns),
        first_frame_time=timestamp(generation.first_frame_time_ns),
        end_time=timestamp(generation.end_time_ns),
        peak_rank_memory_bytes=generation.peak_memory_bytes,
        state_reason=generation.state_reason,
        priority=generation.terms.priority,
        labels=dict(generation.terms.labels),
        detached=generation.terms.lease_s is None,
        deadline=timestamp(generation.terms.deadline_ns),
        sequence=len(generation.events),
        expire_time=timestamp(generations.keeper.expire_time_ns(generation)),
        first_available_frame_index=generation.frames.first_available,
        next_frame_index=generation.frames.next_missing,
        retention_frame_count=generation.terms.retention_frame_count,
        overflow_policy=(
            generation_pb2.OVERFLOW_POLICY_DROP_OLDEST
            if generation.terms.drops_oldest
            else generation_pb2.OVERFLOW_POLICY_BLOCK
        ),
    )


def event_message(event: Event) -> generation_pb2.GenerationEvent:
    """A change of state."""
    return generation_pb2.GenerationEvent(
        sequence=event.sequence,
        time=timestamp(event.time_ns),
        state=event.state,
        state_reason=event.state_reason,
        message=event.message,
    )


def model_message(limits: link_pb2.ModelLimits, memory: link_pb2.MemoryModel) -> server_info_service_pb2.ModelInfo:
    """A model's limits, its own and those of the ranks' memory, as clients see them."""
    scope = limits.default_temporal_scope
    return server_info_service_pb2.ModelInfo(
        name=limits.name,
        default_width=limits.default_width,
        default_height=limits.default_height,
        min_width=limits.min_width,
        max_width=limits.max_width,
        min_height=limits.min_height,
        max_height=limits.max_height,
        size_multiple=limits.size_multiple,
        default_frame_count=limits.default_frame_count,
        max_frame_count=limits.max_frame_count,
        trained_frame_count=limits.trained_frame_count,
        default_frame_rate=generation_pb2.Rational(
            num=limits.default_frame_rate_num, den=limits.default_frame_rate_den
        ),
        default_step_count=limits.default_step_count,
        default_guidance_scale=limits.default_guidance_scale,
        default_solver=ranges.SOLVERS[limits.default_solver],
        default_temporal_scope=ranges.scope_message(scope),
        max_prompt_chars=limits.max_prompt_chars,
        max_prompt_words=limits.max_prompt_words,
        vocabulary=limits.vocabulary,
        max_frame_count_at_default_size=largest_frame_count(
            memory,
            limits,
            limits.default_width,
            limits.default_height,
            scope.local_window_frames + scope.global_frames,
        ),
        image_frames=_IMAGE_FRAMES.get(limits.image_frames, server_info_service_pb2.IMAGE_FRAMES_UNSPECIFIED),
        max_image_count=limits.max_image_count,
        min_image_count=limits.min_image_count,
        frame_count_step=max(1, limits.frames_per_latent),
        solvers=[ranges.SOLVERS[name] for name in limits.solvers],
        single_prompt=limits.single_prompt,
    )


def limits_message(
    max_waiting: int, memory: link_pb2.MemoryModel, clients: ClientLimits, *, disk_budget: int
) -> server_info_service_pb2.ServerLimits:
    """Limits that no model changes."""
    return server_info_service_pb2.ServerLimits(
        max_waiting_generation_count=max_waiting,
        max_data_bytes=MAX_DATA_BYTES,
        max_step_count=ranges.MAX_STEP_COUNT,
        max_guidance_scale=ranges.MAX_GUIDANCE_SCALE,
        max_global_frames=ranges.MAX_GLOBAL_FRAMES,
        rank_memory_budget_bytes=memory.budget_bytes,
        max_waiting_per_client=clients.max_waiting,
        max_creates_per_minute=clients.creates.per_minute,
        disk_budget_bytes=disk_budget,
        max_image_bytes=MAX_IMAGE_BYTES,
        max_image_pixels=MAX_IMAGE_PIXELS,
    )


def mesh_message(mesh: RankMesh, world_size: int) -> server_info_service_pb2.Mesh:
    """How so many ranks share a video out."""
    return server_info_service_pb2.Mesh(
        clip_count=world_size // (mesh.cfg * mesh.context),
        cfg_rank_count=mesh.cfg,
        context_rank_count=mesh.context,
    )


def rank_message(beat: link_pb2.BeatRequest) -> server_info_service_pb2.RankInfo:
    """A rank as its newest beat shows it."""
    return server_info_service_pb2.RankInfo(
        rank=beat.rank,
        host=beat.host,
        pid=beat.pid,
        device=beat.device,
        device_name=beat.device_name,
        memory_used_bytes=beat.memory_used_bytes,
        memory_total_bytes=beat.memory_total_bytes,
        frame_count=beat.frame_count,
    )
