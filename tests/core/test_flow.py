"""Flow matching: the stock scheduler's steps, its noise levels as the pipelines set them, resumed to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from vinf_core.diffusion.checkpoint import Checkpoint, capture, from_records, restore, to_records
from vinf_core.diffusion.preview import clean_estimate
from vinf_core.diffusion.schedule import make_scheduler
from vinf_core.errors import CheckpointError, ConfigError
from vinf_core.models.flow_schedule import EVEN_SIGMAS
from vinf_core.models.latent_scale import LatentScale
from vinf_core.types import Solver

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")
STEPS = 7
STOCK: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 7.0}
EVEN = STOCK | {EVEN_SIGMAS: True}
DYNAMIC = STOCK | {"shift": 1.0, "use_dynamic_shifting": True}
KINDS = pytest.mark.parametrize("config", [EVEN, STOCK, DYNAMIC], ids=["even", "stock", "dynamic"])


def make(config: dict[str, Any], steps: int = STEPS) -> Any:
    return make_scheduler(Solver.FLOW_EULER, config, steps)


def stock_of(config: dict[str, Any], steps: int = STEPS) -> FlowMatchEulerDiscreteScheduler:
    """As HunyuanVideo's pipelines set it up, or else EasyAnimate's."""
    stock = FlowMatchEulerDiscreteScheduler.from_config({k: v for k, v in config.items() if k != EVEN_SIGMAS})
    if EVEN_SIGMAS in config:
        stock.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1])
    else:
        stock.set_timesteps(steps, mu=1)
    return stock


def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Stands for a model."""
    return torch.tanh(latents * 0.7 + float(timestep) / 1000)


def noise(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, 4, 2, 2, dtype=dtype, generator=torch.Generator().manual_seed(1))


@KINDS
@pytest.mark.parametrize("steps", [1, STEPS, 30])
def test_it_equals_the_stock_loop_step_by_step(config: dict[str, Any], steps: int) -> None:
    scheduler, stock = make(config, steps), stock_of(config, steps)
    assert scheduler.timesteps.device == CPU
    assert torch.equal(scheduler.timesteps, stock.timesteps)
    assert len(scheduler.timesteps) == steps
    ours = theirs = noise() * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        assert scheduler.scale_model_input(ours, timestep) is ours
        ours = scheduler.step(velocity(ours, timestep), timestep, ours).prev_sample
        theirs = stock.step(velocity(theirs, timestep), timestep, theirs).prev_sample
        assert torch.equal(ours, theirs)
    assert scheduler.sigmas[-1] == 0


@KINDS
def test_resuming_after_any_step_changes_no_bit(config: dict[str, Any]) -> None:
    scheduler, latents = make(config), noise()
    records: dict[int, list[bytes]] = {}
    for done, timestep in enumerate(scheduler.timesteps, 1):
        latents = scheduler.step(velocity(latents, timestep), timestep, latents).prev_sample
        taken = capture(scheduler, latents, completed_steps=done, start_frame=0, count=3)
        assert taken.model_outputs == ()
        records[done] = list(to_records(taken))
    for done, kept in records.items():
        fresh = make(config)
        resumed = restore(fresh, from_records(kept, completed_steps=done, frames=range(3)), CPU)
        for timestep in fresh.timesteps[done:]:
            resumed = fresh.step(velocity(resumed, timestep), timestep, resumed).prev_sample
        assert torch.equal(resumed, latents), f"resumed after step {done}"


def test_a_resumed_step_count_is_not_looked_up_by_its_timestep() -> None:
    """Two timesteps may round to the same number; the step that is due is known."""
    scheduler = make(EVEN)
    scheduler.timesteps[3] = scheduler.timesteps[2]
    restore(scheduler, Checkpoint(completed_steps=2, start_frame=0, latents=noise()), CPU)
    scheduler.step(noise(), scheduler.timesteps[2], noise())
    assert scheduler.step_index == 3


def test_a_checkpoint_of_another_solver_is_refused() -> None:
    wrong = Checkpoint(completed_steps=2, start_frame=0, latents=noise(), model_outputs=(noise(),))
    with pytest.raises(CheckpointError, match="model_outputs: the checkpoint has 1, the solver needs 0"):
        restore(make(EVEN), wrong, CPU)


@KINDS
def test_an_exact_model_shows_the_clean_latents_at_every_step(config: dict[str, Any]) -> None:
    scheduler = make(config)
    clean, latents = noise(torch.float64) * 0.5, noise(torch.float64)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        step = scheduler.step((latents - clean) / float(sigma), timestep, latents)
        latents = step.prev_sample
        assert torch.allclose(clean_estimate(scheduler, step), clean, rtol=0, atol=1e-12)
    assert torch.allclose(latents, clean, rtol=0, atol=1e-12), "float64 stays float64"


def test_solvers_and_schedules_that_do_not_fit_are_refused() -> None:
    betas = {"_class_name": "DDIMScheduler"}
    for solver, config, words in (
        (Solver.DDIM, EVEN, "solver: ddim does not fit the model, whose schedule is a flow"),
        (Solver.DPM_SOLVER_PP_2M, STOCK, "solver: dpm_solver_pp_2m does not fit the model, whose schedule is a flow"),
        (Solver.FLOW_EULER, betas, "solver: flow_euler does not fit the model, whose schedule is no flow"),
        (Solver.FLOW_EULER, STOCK | {"stochastic_sampling": True}, "stochastic_sampling is not supported"),
        (Solver.FLOW_EULER, STOCK | {"invert_sigmas": True}, "invert_sigmas is not supported"),
        (Solver.FLOW_EULER, EVEN | {"use_dynamic_shifting": True}, "use_dynamic_shifting is not supported"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_scheduler(solver, config, STEPS)
    with pytest.raises(ConfigError, match="a flow is not supported together with a scale of latents"):
        make_scheduler(Solver.FLOW_EULER, STOCK, STEPS, LatentScale())
