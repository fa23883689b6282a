"""Solvers from diffusers, set up from the schedule a model was trained with."""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from vinf_core.errors import ConfigError
from vinf_core.types import Solver


def make_scheduler(solver: Solver, scheduler_config: dict[str, Any], step_count: int) -> Any:
    """Build a solver with its timesteps on the CPU, so that no step waits for a device.

    Both solvers are deterministic and work on each latent value by itself: they need no exchange between ranks.

    Raises:
        ConfigError: the schedule uses thresholding, which would need statistics of the whole video.
    """
    if scheduler_config.get("thresholding"):
        raise ConfigError("scheduler: thresholding is not supported, it looks at more than one value at a time")
    if solver is Solver.DDIM:
        scheduler = DDIMScheduler.from_config(scheduler_config)
    else:
        scheduler = DPMSolverMultistepScheduler.from_config(
            scheduler_config, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint"
        )
    scheduler.set_timesteps(step_count, device="cpu")
    return scheduler
