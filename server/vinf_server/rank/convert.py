"""The engine link's messages to the core's types and back."""

from __future__ import annotations

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.engine.commands import Command, Generate, Stop
from vinf_core.engine.memory import MemoryModel
from vinf_core.engine.worker import Outcome
from vinf_core.types import (
    GenerationSpec,
    GlobalChoice,
    ImageCondition,
    InitialNoise,
    ModelLimits,
    PromptSegment,
    Solver,
    Stage,
    TemporalScope,
)

STAGES = {Stage.TEXT: pb.STAGE_TEXT, Stage.DENOISE: pb.STAGE_DENOISE, Stage.DECODE: pb.STAGE_DECODE}
OUTCOMES = {
    Outcome.SUCCEEDED: pb.OUTCOME_SUCCEEDED,
    Outcome.CANCELLED: pb.OUTCOME_CANCELLED,
    Outcome.FAILED: pb.OUTCOME_FAILED,
}


def command_from_order(order: pb.AttachResponse) -> Command | None:
    """Read an order that becomes a command; None for the others (cancel)."""
    if order.HasField("stop"):
        return Stop()
    if not order.HasField("generate"):
        return None
    wanted = order.generate
    return Generate(
        wanted.generation_id,
        GenerationSpec(
            prompt=wanted.prompt,
            negative_prompt=wanted.negative_prompt,
            frame_count=wanted.frame_count,
            width=wanted.width,
            height=wanted.height,
            seed=wanted.seed,
            step_count=wanted.step_count,
            guidance_scale=wanted.guidance_scale,
            frame_rate=wanted.frame_rate_num / max(1, wanted.frame_rate_den),
            solver=Solver(wanted.solver),
            scope=TemporalScope(
                local_window_frames=wanted.temporal_scope.local_window_frames,
                global_frames=wanted.temporal_scope.global_frames,
                phase_timestep=wanted.temporal_scope.phase_timestep,
                phase_bias=wanted.temporal_scope.phase_bias,
                global_across_cuts=wanted.temporal_scope.global_across_cuts,
                initial_noise=(InitialNoise.FREENOISE if wanted.temporal_scope.freenoise else InitialNoise.INDEPENDENT),
                global_choice=GlobalChoice.KEY_FRAMES if wanted.temporal_scope.key_frames else GlobalChoice.EVEN,
                overlap_frames=wanted.temporal_scope.overlap_frames,
            ),
            segments=tuple(
                PromptSegment(
                    start_frame=segment.start_frame_index,
                    prompt=segment.prompt,
                    transition_frames=segment.transition_frame_count,
                    cut=segment.cut,
                )
                for segment in wanted.prompt_segments
            ),
            images=tuple(ImageCondition(image.frame_index, image.pixels) for image in wanted.image_conditions),
        ),
        clip_frame_counts=tuple(wanted.clip_frame_counts),
        resume_step=wanted.resume_step,
        texts_at_once=wanted.texts_at_once,
        first_frame=wanted.first_frame_index,
        preview_interval=wanted.preview_interval_steps,
    )


def limits_to_proto(limits: ModelLimits) -> pb.ModelLimits:
    """Write a model's limits as the front's validator wants them."""
    scope = limits.default_scope
    numerator, denominator = limits.default_frame_rate
    return pb.ModelLimits(
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
        default_frame_rate_num=numerator,
        default_frame_rate_den=denominator,
        default_step_count=limits.default_step_count,
        default_guidance_scale=limits.default_guidance_scale,
        default_solver=limits.default_solver.value,
        default_temporal_scope=pb.Scope(
            local_window_frames=scope.local_window_frames,
            global_frames=scope.global_frames,
            phase_timestep=scope.phase_timestep,
            phase_bias=scope.phase_bias,
            global_across_cuts=scope.global_across_cuts,
            freenoise=scope.initial_noise is InitialNoise.FREENOISE,
            key_frames=scope.global_choice is GlobalChoice.KEY_FRAMES,
            overlap_frames=scope.overlap_frames,
        ),
        max_prompt_chars=limits.max_prompt_chars,
        max_prompt_words=limits.max_prompt_words,
        vocabulary=list(limits.vocabulary),
        image_frames=limits.image_frames.value,
        max_image_count=limits.max_images,
        min_image_count=limits.min_images,
        frames_per_latent=limits.frames_per_latent,
        solvers=[solver.value for solver in limits.solvers],
        single_prompt=not limits.takes_story,
    )


def memory_to_proto(memory: MemoryModel | None) -> pb.MemoryModel | None:
    """Write what the ranks have room for; None, which leaves the field unset, when it is not known."""
    if memory is None:
        return None
    return pb.MemoryModel(
        budget_bytes=memory.budget_bytes,
        fixed_bytes=memory.fixed_bytes,
        bytes_per_frame_pixel=memory.bytes_per_frame_pixel,
        decode_fixed_bytes=memory.decode_fixed_bytes,
        decode_bytes_per_pixel=memory.decode_bytes_per_pixel,
        largest_clip_share=memory.largest_clip_share,
    )
