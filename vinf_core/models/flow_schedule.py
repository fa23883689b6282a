"""How a model trained with flow matching says what its noise levels are."""

from __future__ import annotations

FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)
"""Classes whose configuration describes such a schedule."""

EVEN_SIGMAS = "vinf_even_sigmas"
"""Key that a model may add to its scheduler's configuration. True: noise levels are evenly spaced from 1 down to
1 / steps before they are shifted, as HunyuanVideo's pipelines set them; else the scheduler spaces them itself, as it
does for EasyAnimate."""
