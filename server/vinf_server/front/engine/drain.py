"""What becomes of the generation in work when the server stops."""

from __future__ import annotations

import logging
import time

from vinf_server.front.engine.dispatcher import Dispatcher
from vinf_server.front.generations.generation import Generation

_log = logging.getLogger(__name__)

_LOOK_S = 0.5


async def finish_or_save(dispatcher: Dispatcher, *, finish_by: float, save_by: float) -> None:
    """Let the generation in work end, or have the ranks save a checkpoint of it and stop; hand out nothing more.

    Args:
        dispatcher: knows it.
        finish_by: when it is no longer waited for, or earlier where its steps tell that it cannot end by then.
        save_by: when this returns whatever has come of it. Both on the monotonic clock, in seconds.
    """
    dispatcher.hold()
    generation = dispatcher.current
    if generation is None:
        return
    _log.info("waiting for generation %s to end, or to save a checkpoint", generation.generation_id)
    while dispatcher.current is generation:
        now = time.monotonic()
        if now + _steps_left_s(dispatcher, generation) > finish_by:
            dispatcher.preempt()
        if now >= save_by:
            _log.warning("generation %s is cut off; its newest checkpoint stays", generation.generation_id)
            return
        next_time = finish_by if now < finish_by else save_by
        await generation.changed.wait(timeout_s=min(_LOOK_S, next_time - now))


def _steps_left_s(dispatcher: Dispatcher, generation: Generation) -> float:
    """How long the steps that are left will take; 0 when nobody knows."""
    left = generation.resolved_spec.inference_step_count - generation.completed_steps
    return left * (dispatcher.usual_step_s or 0.0)
