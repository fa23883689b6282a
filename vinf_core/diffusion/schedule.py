"""Solvers from diffusers, set up from the schedule a model was trained with."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from vinf_core.diffusion.flow import make_flow_scheduler
from vinf_core.errors import ConfigError
from vinf_core.models.flow_schedule import FLOW_SCHEDULERS
from vinf_core.models.latent_scale import LatentScale
from vinf_core.types import Solver


class _ScaledInput:
    """Beside a scheduler that runs in a variable of its own: what the model sees is that variable times a factor."""

    input_factors: torch.Tensor
    """One a training timestep."""

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """From the solver's variable to the model's."""
        return sample * float(self.input_factors[int(timestep)])


class _ScaledDDIM(_ScaledInput, DDIMScheduler):
    """DDIM for a model with a `LatentScale`."""


class _ScaledDPMSolver(_ScaledInput, DPMSolverMultistepScheduler):
    """DPM-Solver++ for a model with a `LatentScale`."""


def make_scheduler(
    solver: Solver, scheduler_config: dict[str, Any], step_count: int, latent_scale: LatentScale | None = None
) -> Any:
    """Build a solver with its timesteps on the CPU, so that no step waits for a device.

    All solvers are deterministic and work on each latent value by itself: they need no exchange between ranks.

    Stock solvers expect a variance-preserving process, which one with scaled latents, x = a x0 + sigma e, is not. They
    run in z = x / sqrt(a^2 + sigma^2), which is one and has the same ratio of noise to signal at every timestep; the
    model gets z sqrt(a^2 + sigma^2), and its prediction of e or x0 means the same in both.

    Args:
        solver: which one.
        scheduler_config: the schedule, as diffusers stores it.
        step_count: denoising steps.
        latent_scale: the scale of clean latents the model was trained with.

    Raises:
        ConfigError: the schedule uses thresholding, which would need statistics of the whole video; or predicts a
            velocity, which is another one in the two variables; or the solver is not one for such a schedule.
    """
    is_flow = scheduler_config.get("_class_name") in FLOW_SCHEDULERS
    if is_flow != (solver is Solver.FLOW_EULER):
        kind = "a flow" if is_flow else "no flow"
        raise ConfigError(f"solver: {solver.value} does not fit the model, whose schedule is {kind}")
    if is_flow:
        if latent_scale is not None:
            raise ConfigError("scheduler: a flow is not supported together with a scale of latents")
        return make_flow_scheduler(scheduler_config, step_count)
    if scheduler_config.get("thresholding"):
        raise ConfigError("scheduler: thresholding is not supported, it looks at more than one value at a time")
    kinds: dict[Solver, Any] = {Solver.DDIM: DDIMScheduler, Solver.DPM_SOLVER_PP_2M: DPMSolverMultistepScheduler}
    more: dict[str, Any] = {}
    if solver is Solver.DPM_SOLVER_PP_2M:
        more = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    scheduler = kinds[solver].from_config(scheduler_config, **more)
    if latent_scale is not None:
        if scheduler.config.prediction_type == "v_prediction":
            raise ConfigError("scheduler: a velocity is not supported together with a scale of latents")
        factors, betas = _variance_preserving(scheduler.alphas_cumprod, latent_scale)
        kinds = {Solver.DDIM: _ScaledDDIM, Solver.DPM_SOLVER_PP_2M: _ScaledDPMSolver}
        scheduler = kinds[solver].from_config(scheduler_config, **more, trained_betas=betas.tolist())
        scheduler.input_factors = factors
    scheduler.set_timesteps(step_count, device="cpu")
    if latent_scale is not None:
        # The model's variable begins with a variance of 1.
        scheduler.init_noise_sigma = 1 / float(factors[int(scheduler.timesteps[0])])
    return scheduler


def _variance_preserving(alphas_cumprod: torch.Tensor, scale: LatentScale) -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(a^2 + sigma^2) at each timestep, and the betas of the process in z, float64 both."""
    alphas = alphas_cumprod.double()
    signal = alphas * scale.factors(len(alphas)) ** 2
    whole = signal + 1 - alphas
    kept = signal / whole
    return whole.sqrt(), 1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
