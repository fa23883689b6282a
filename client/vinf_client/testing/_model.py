"""The model that a fake server claims to have: its limits, and what becomes of a specification."""

import secrets

from vinf.v1 import generation_pb2 as pb
from vinf.v1 import server_info_service_pb2 as info_pb

MODEL = info_pb.ModelInfo(
    name="fake",
    default_width=64,
    default_height=64,
    min_width=16,
    max_width=4096,
    min_height=16,
    max_height=4096,
    size_multiple=8,
    default_frame_count=16,
    max_frame_count=100_000,
    trained_frame_count=16,
    default_frame_rate=pb.Rational(num=24, den=1),
    default_step_count=4,
    default_guidance_scale=7.5,
    default_solver=pb.SOLVER_DDIM,
    default_temporal_scope=pb.TemporalScope(
        mode=pb.TEMPORAL_SCOPE_MODE_CUSTOM, local_window_frames=16, global_frames=8, phase_timestep=500, phase_bias=1.5
    ),
    max_prompt_chars=1000,
    frame_count_step=1,
    solvers=[pb.SOLVER_DDIM, pb.SOLVER_DPM_SOLVER_PP_2M],
)
LIMITS = info_pb.ServerLimits(
    max_waiting_generation_count=64,
    max_data_bytes=64 * 1024 * 1024,
    max_step_count=200,
    max_guidance_scale=50,
    max_global_frames=256,
)


def resolve(asked: pb.GenerationSpec) -> pb.GenerationSpec:
    """Fill in every default."""
    spec = pb.GenerationSpec(
        model=MODEL.name,
        width=MODEL.default_width,
        height=MODEL.default_height,
        frame_count=MODEL.default_frame_count,
        seed=secrets.randbelow(2**63 - 1) + 1,
        inference_step_count=MODEL.default_step_count,
        guidance_scale=MODEL.default_guidance_scale,
        solver=MODEL.default_solver,
    )
    spec.MergeFrom(asked)
    if not asked.HasField("frame_rate"):
        spec.frame_rate.CopyFrom(MODEL.default_frame_rate)
    if asked.temporal_scope.mode != pb.TEMPORAL_SCOPE_MODE_CUSTOM:
        spec.temporal_scope.CopyFrom(MODEL.default_temporal_scope)
    return spec
