"""A rank's configuration and the messages it speaks."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.distributed.topology import Mesh
from vinf_core.engine.commands import Generate, Stop
from vinf_core.engine.memory import MemoryModel
from vinf_core.errors import ConfigError
from vinf_core.models.images import pixels_of
from vinf_core.models.locate import ModelSource, locate
from vinf_core.models.sprites import limits
from vinf_core.types import (
    GlobalChoice,
    ImageCondition,
    ImageFrames,
    InitialNoise,
    PromptSegment,
    Solver,
    TemporalScope,
)
from vinf_server.config import ServeConfig
from vinf_server.front.engine.launch import LaunchPlan, agent_environment
from vinf_server.rank.config import RankConfig
from vinf_server.rank.convert import command_from_order, limits_to_proto, memory_to_proto

pytestmark = pytest.mark.fast

PICTURE = bytes(range(256)) * (64 * 32 * 3 // 256)
ENVIRONMENT = {
    "RANK": "1",
    "WORLD_SIZE": "3",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "3",
    "VINF_LINK": "unix:/run/link",
    "VINF_EPOCH": "4",
    "VINF_MODEL": "sprites",
    "VINF_DTYPE": "bfloat16",
    "VINF_DETERMINISTIC": "1",
    "VINF_CFG_RANKS": "1",
    "VINF_CONTEXT_RANKS": "3",
    "VINF_RANK_WEIGHTS": "2.0,1.0,0.5",
    "VINF_MEMORY_BUDGET": "8589934592",
    "VINF_SKIP_NEGLIGIBLE": "1",
    "VINF_FAILURE_FILE": "/run/failure.json",
}


def test_environment_is_read() -> None:
    config = RankConfig.from_environment(ENVIRONMENT)
    assert (config.rank, config.world_size, config.epoch) == (1, 3, 4)
    assert (config.model, config.model_options) == (ModelSource(model="sprites", offline=True), {})
    assert config.dtype is torch.bfloat16
    assert config.device == "auto"
    assert config.deterministic
    assert config.failure_file == Path("/run/failure.json")
    assert config.mesh == Mesh(cfg=1, context=3)
    assert config.rank_weights == (2, 1, 0.5)
    assert (config.memory_budget, config.skip_negligible) == (8 << 30, True)
    for word in ("auto", "measured", "even"):
        assert RankConfig.from_environment(ENVIRONMENT | {"VINF_RANK_WEIGHTS": word}).rank_weights == word


def test_memory_that_an_earlier_group_measured_is_read_as_the_front_writes_it(tmp_path: Path) -> None:
    measured = MemoryModel(
        budget_bytes=8 << 30,
        fixed_bytes=200 << 20,
        bytes_per_frame_pixel=123.25,
        decode_fixed_bytes=100 << 20,
        decode_bytes_per_pixel=0.1,
        largest_clip_share=1 / 3,
    )
    plan = LaunchPlan(
        epoch=2, link_address="unix:x", log_folder=tmp_path, failure_file=tmp_path, memory=memory_to_proto(measured)
    )
    told = agent_environment(ServeConfig(ranks=3), plan)["VINF_KNOWN_MEMORY"]
    assert RankConfig.from_environment(ENVIRONMENT | {"VINF_KNOWN_MEMORY": told}).known_memory == measured
    assert RankConfig.from_environment(ENVIRONMENT).known_memory is None


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ConfigError, match="VINF_EPOCH is not set"):
        RankConfig.from_environment({k: v for k, v in ENVIRONMENT.items() if k != "VINF_EPOCH"})
    with pytest.raises(ConfigError, match="'int4' is not one of float32"):
        RankConfig.from_environment(ENVIRONMENT | {"VINF_DTYPE": "int4"})


def test_orders_become_commands() -> None:
    scope = pb.Scope(
        local_window_frames=8,
        global_frames=3,
        phase_timestep=800,
        phase_bias=10,
        global_across_cuts=True,
        freenoise=True,
        key_frames=True,
        overlap_frames=5,
    )
    order = pb.GenerateOrder(
        generation_id="g",
        prompt="p",
        negative_prompt="n",
        width=64,
        height=32,
        frame_count=2304,
        seed=2**63 - 1,
        step_count=30,
        guidance_scale=12,
        frame_rate_num=30_000,
        frame_rate_den=1001,
        solver="ddim",
        temporal_scope=scope,
        prompt_segments=[
            pb.PromptSegment(start_frame_index=4, prompt="q", transition_frame_count=2),
            pb.PromptSegment(start_frame_index=9, prompt="r", cut=True),
        ],
        clip_frame_counts=[2000, 304],
        resume_step=12,
        texts_at_once=1,
        first_frame_index=48,
        image_conditions=[pb.ImageCondition(frame_index=9, pixels=PICTURE)],
    )
    command = command_from_order(pb.AttachResponse(generate=order))
    assert isinstance(command, Generate)
    assert (command.clip_frame_counts, command.resume_step) == ((2000, 304), 12)
    assert (command.texts_at_once, command.first_frame) == (1, 48)
    spec = command.spec
    assert (spec.prompt, spec.negative_prompt, spec.width, spec.height) == ("p", "n", 64, 32)
    assert (spec.frame_count, spec.seed, spec.step_count) == (2304, 2**63 - 1, 30)
    assert (spec.guidance_scale, spec.solver, spec.frame_rate) == (12, Solver.DDIM, 30_000 / 1001)
    assert spec.scope == TemporalScope(
        local_window_frames=8,
        global_frames=3,
        phase_timestep=800,
        phase_bias=10,
        global_across_cuts=True,
        initial_noise=InitialNoise.FREENOISE,
        global_choice=GlobalChoice.KEY_FRAMES,
        overlap_frames=5,
    )
    assert spec.segments == (
        PromptSegment(start_frame=4, prompt="q", transition_frames=2),
        PromptSegment(start_frame=9, prompt="r", cut=True),
    )
    assert spec.scenes == (range(9), range(9, 2304))
    assert spec.images == (ImageCondition(9, PICTURE),)
    assert pixels_of(spec.images[0], spec).tolist()[31][63] == list(PICTURE[-3:])
    assert len(repr(spec)) < 1000, "pixels are shown"
    assert command_from_order(pb.AttachResponse(stop=pb.StopOrder())) == Stop()
    assert command_from_order(pb.AttachResponse(cancel=pb.CancelOrder(generation_id="g"))) is None


def test_every_limit_reaches_the_front() -> None:
    told = limits(locate(ModelSource(model="sprites")))
    assert limits_to_proto(told).image_frames == "none"
    assert not limits_to_proto(told).single_prompt
    message = limits_to_proto(
        replace(told, image_frames=ImageFrames.FIRST_AND_LAST, max_images=2, min_images=1, takes_story=False)
    )
    assert message.image_frames == "first_and_last"
    assert list(message.solvers) == ["ddim", "dpm_solver_pp_2m"]
    missing = {field.name for field in message.DESCRIPTOR.fields} - {field.name for field, _ in message.ListFields()}
    assert not missing, f"never set: {missing}"


def test_a_models_own_noise_and_choice_reach_the_front() -> None:
    known = limits(locate(ModelSource(model="sprites")))
    own = replace(known.default_scope, initial_noise=InitialNoise.FREENOISE, global_choice=GlobalChoice.KEY_FRAMES)
    for scope, is_set in ((known.default_scope, False), (own, True)):
        message = limits_to_proto(replace(known, default_scope=scope)).default_temporal_scope
        assert (message.freenoise, message.key_frames) == (is_set, is_set)


def test_what_is_known_of_the_memory_reaches_the_front() -> None:
    known = MemoryModel(
        budget_bytes=1,
        fixed_bytes=2,
        bytes_per_frame_pixel=0.1,
        decode_fixed_bytes=4,
        decode_bytes_per_pixel=0.2,
        largest_clip_share=0.5,
    )
    message = memory_to_proto(known)
    assert message is not None
    assert {field.name: value for field, value in message.ListFields()} == asdict(known)
    assert not pb.ReadyReport(memory=memory_to_proto(None)).HasField("memory")
