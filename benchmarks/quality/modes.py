"""The ways to make a long video that are compared; all else (model, noise, seeds, steps, clip length) is the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vinf_core.types import GenerationSpec, GlobalChoice, InitialNoise, ModelLimits, PromptSegment, TemporalScope

CLIP_FRAMES = 24
"""Frames of a clip: where independent clips and local norms show, and where seams are looked for in every mode."""

WINDOW = 16
GLOBAL_FRAMES = 8
"""The embedded model's own scope."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """One way."""

    name: str
    about: str
    """What a frame sees, in a few words."""
    scope: TemporalScope
    cut: bool = False
    """Whether every clip is a scene of its own: nothing reaches across, as if it were generated alone."""
    shares_norms: bool = True
    """Whether group norms span the video; else each rank's clip alone, as in the published code."""
    rendered: bool = False
    """Whether the world itself is shown instead of what the model makes: what the figures say of the truth."""


def _scope(window: int, global_frames: int) -> TemporalScope:
    return TemporalScope(local_window_frames=window, global_frames=global_frames)


MODES = {
    mode.name: mode
    for mode in (
        Mode(name="rendered", about="the world itself, without a model", scope=_scope(0, 0), rendered=True),
        Mode(
            name="independent",
            about="clips generated one by one, each with full attention, and joined",
            scope=_scope(2 * CLIP_FRAMES, 0),
            cut=True,
        ),
        Mode(
            name="freenoise",
            about=f"FreeNoise's noise, window {WINDOW}, no global frames",
            scope=replace(_scope(WINDOW, 0), initial_noise=InitialNoise.FREENOISE),
        ),
        Mode(name="local", about=f"window {WINDOW}, no global frames", scope=_scope(WINDOW, 0)),
        Mode(name="global", about=f"{GLOBAL_FRAMES} global frames, no window", scope=_scope(0, GLOBAL_FRAMES)),
        Mode(name="dual", about=f"window {WINDOW}, {GLOBAL_FRAMES} global frames", scope=_scope(WINDOW, GLOBAL_FRAMES)),
        Mode(
            name="key-frames",
            about=f"window {WINDOW}, {GLOBAL_FRAMES} key frames",
            scope=replace(_scope(WINDOW, GLOBAL_FRAMES), global_choice=GlobalChoice.KEY_FRAMES),
        ),
        Mode(
            name="unsynchronised",
            about="dual, but group norms of each clip alone",
            scope=_scope(WINDOW, GLOBAL_FRAMES),
            shares_norms=False,
        ),
    )
}
"""By name, in the order of the table."""


def boundaries(frames: int) -> list[int]:
    """First frame of each clip but the first."""
    return list(range(CLIP_FRAMES, frames, CLIP_FRAMES))


def specification(
    mode: Mode, limits: ModelLimits, *, prompt: str, seed: int, frames: int, steps: int
) -> GenerationSpec:
    """What the engine is asked for."""
    cuts = boundaries(frames) if mode.cut else []
    return GenerationSpec(
        prompt=prompt,
        frame_count=frames,
        width=limits.default_width,
        height=limits.default_height,
        seed=seed,
        step_count=steps,
        guidance_scale=limits.default_guidance_scale,
        solver=limits.default_solver,
        scope=mode.scope,
        segments=tuple(PromptSegment(start_frame=start, prompt=prompt, cut=True) for start in cuts),
    )
