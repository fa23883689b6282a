"""What the scripted rank and the tests agree on."""

from __future__ import annotations

import asyncio

import numpy as np

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf.v1 import generation_pb2
from vinf_server.front.rpc.spec import SpecValidator

VOCABULARY = ("a", "red", "blue", "circle", "square", "slow", "hang", "fail", "short", "huge", "crash")


def model_limits(**changes) -> pb.ModelLimits:
    values = {
        "name": "scripted",
        "default_width": 64,
        "default_height": 64,
        "min_width": 32,
        "max_width": 512,
        "min_height": 32,
        "max_height": 512,
        "size_multiple": 16,
        "default_frame_count": 16,
        "max_frame_count": 4096,
        "trained_frame_count": 16,
        "default_frame_rate_num": 24,
        "default_frame_rate_den": 1,
        "default_step_count": 4,
        "default_guidance_scale": 3.0,
        "default_solver": "ddim",
        "default_temporal_scope": pb.Scope(local_window_frames=16, global_frames=8, phase_timestep=600, phase_bias=1.5),
        "max_prompt_chars": 200,
        "max_prompt_words": 12,
        "vocabulary": VOCABULARY,
        "image_frames": "first_and_last",
        "max_image_count": 2,
        "frames_per_latent": 1,
        "solvers": ["ddim", "dpm_solver_pp_2m"],
    }
    return pb.ModelLimits(**(values | changes))


def memory_model(*, budget_bytes: int = 0, **changes) -> pb.MemoryModel:
    """A rank on which a clip's frame of 64 x 64 pixels takes one MiB, on top of 32."""
    values = {
        "fixed_bytes": 32 << 20,
        "bytes_per_frame_pixel": 256.0,
        "decode_fixed_bytes": 16 << 20,
        "decode_bytes_per_pixel": 1024.0,
        "largest_clip_share": 1.0,
    }
    return pb.MemoryModel(budget_bytes=budget_bytes, **(values | changes))


def room_for(frame_count: float, **changes) -> pb.MemoryModel:
    """A rank that holds as many frames of 64 x 64 pixels, and no more."""
    return memory_model(budget_bytes=(32 << 20) + int(frame_count * (1 << 20)), **changes)


def frame_bytes(seed: int, index: int, size: int) -> bytes:
    """The pixels of a frame: every one depends on the seed and on its index."""
    return np.random.default_rng([seed % 2**32, index]).integers(0, 256, size, dtype=np.uint8).tobytes()


def normalised_spec(**fields) -> generation_pb2.GenerationSpec:
    """A specification as validation leaves it."""
    validator = SpecValidator(model_limits())
    spec = validator.check(generation_pb2.GenerationSpec(**({"prompt": "a red circle"} | fields)))
    assert not validator.violations
    return spec


def create(generations, *, request_id="", **fields):
    """Admit a generation."""
    return generations.create(normalised_spec(**fields), request_id=request_id, validate_only=False)[0]


async def until(condition):
    """Wait for something that gRPC's own threads bring about; the caller bounds it."""
    while not condition():  # noqa: ASYNC110  # nothing of ours is notified
        await asyncio.sleep(0.005)
