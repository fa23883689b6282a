"""Euler's method for models that were trained with flow matching: they predict the velocity from data to noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from vinf_core.errors import ConfigError
from vinf_core.models.flow_schedule import EVEN_SIGMAS

_MU = 1.0
"""The exponent of a shift that depends on the resolution, where the schedule has one (EasyAnimate's pipelines)."""

_UNSUPPORTED = {
    "stochastic_sampling": "noise that is drawn at every step",
    "invert_sigmas": "noise levels that count the other way",
}


@dataclass(frozen=True, slots=True)
class FlowStep:
    """What a step gives."""

    prev_sample: torch.Tensor
    """The sample at the next noise level, like the one that went in."""
    pred_original_sample: torch.Tensor
    """What the solver takes the clean sample to be."""


class FlowEulerScheduler(FlowMatchEulerDiscreteScheduler):
    """The stock scheduler, which also tells the clean sample, and computes in the sample's own precision."""

    init_noise_sigma = 1.0
    """The noise level that sampling begins with."""

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """A model gets the sample as it is."""
        return sample

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> FlowStep:
        """Go to the next noise level: x + (sigma' - sigma) v; the clean sample is x - sigma v.

        Args:
            model_output: the velocity v, of the sample's shape and dtype.
            timestep: one of ``timesteps``.
            sample: x, float32 or float64; the stock scheduler would round it to float32.
        """
        if self.step_index is None:
            self._init_step_index(timestep)
        sigma, after = self.sigmas[self.step_index], self.sigmas[self.step_index + 1]
        self._step_index += 1
        return FlowStep(sample + (after - sigma) * model_output, sample - sigma * model_output)


def make_flow_scheduler(scheduler_config: dict[str, Any], step_count: int) -> FlowEulerScheduler:
    """Build the solver with its timesteps on the CPU.

    Args:
        scheduler_config: the schedule, as diffusers stores it, and `EVEN_SIGMAS`.
        step_count: denoising steps.

    Raises:
        ConfigError: the schedule is of a kind that is not supported.
    """
    config = dict(scheduler_config)
    even = config.pop(EVEN_SIGMAS, False)
    for name, what in _UNSUPPORTED.items():
        if config.get(name):
            raise ConfigError(f"scheduler: {name} is not supported: {what}")
    if even and config.get("use_dynamic_shifting"):
        raise ConfigError("scheduler: use_dynamic_shifting is not supported for this model")
    scheduler: FlowEulerScheduler = FlowEulerScheduler.from_config(config)
    sigmas = np.linspace(1.0, 0.0, step_count + 1)[:-1] if even else None
    scheduler.set_timesteps(step_count, device="cpu", sigmas=sigmas, mu=_MU)
    return scheduler
