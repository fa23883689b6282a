"""What the steps of one generation have in common: clips, plans and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from vinf_core.context.blocks import AttentionPlan
from vinf_core.context.joint_plan import JointPlan
from vinf_core.context.pieces import GlobalFrames, Piece, even_global_frames, halo_frames, pieces_of
from vinf_core.context.scope import Phase
from vinf_core.distributed.exchange import FramePlan
from vinf_core.types import Clip, TemporalScope

CONVOLUTION_REACH = 4
"""A TemporalConvLayer stacks four convolutions of three frames: its output sees four frames to each side."""

NEGLIGIBLE_BIAS = 8.0
"""A key damped by this many logits weighs e^-8 = 3.4e-4 of a favoured key of equal score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One rank's view of a generation, read by every temporal module."""

    clips: tuple[Clip, ...]
    clip: Clip
    """This rank's own."""
    scenes: tuple[range, ...]
    """The video's frames between its cuts."""
    pieces: tuple[Piece, ...]
    """This rank's clip, cut where the video is cut."""
    scope: TemporalScope
    global_frames: GlobalFrames
    """Of every scene."""
    global_phase: AttentionPlan | JointPlan
    """For timesteps above the phase timestep."""
    local_phase: AttentionPlan | JointPlan
    """For the other timesteps."""
    convolution_plan: FramePlan
    """Nothing travels where attention is joint: such models have no temporal convolutions."""
    rank: int
    phases: tuple[Phase, ...]
    """One, or the global one and the local one."""
    plan_phase: Callable[..., AttentionPlan | JointPlan]
    """`AttentionPlan.build` or `JointPlan.build`, with all but the phase and the global frames given."""
    position_count: int
    """Positions that the temporal attention was trained with; 0: it knows none."""
    joint: bool
    """Whether one attention does space, time and text, as in 3-D transformers; then frames are latent ones."""

    @classmethod
    def build(
        cls,
        clips: tuple[Clip, ...],
        rank: int,
        scope: TemporalScope,
        *,
        scenes: tuple[range, ...] | None = None,
        skip_negligible: bool = False,
        position_count: int = 0,
        joint: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Layout:
        """Plan a generation for ``rank``.

        Args:
            clips: every rank's clip; they cover the video.
            rank: the rank to plan for.
            scope: window, global frames, phase rule.
            scenes: the video's frames between its cuts; None: one scene.
            skip_negligible: whether a step leaves out, and does not exchange, the kind of context that its phase damps
                by `NEGLIGIBLE_BIAS` or more: a frame left out weighs e^-bias of a favoured one of equal score. The
                result still does not depend on the number of ranks.
            position_count: see `Layout.position_count`.
            joint: see `Layout.joint`.
            dtype: of the masks.
            device: of the masks.
        """
        scenes = scenes or (range(clips[-1].stop),)
        favoured_only = skip_negligible and scope.phase_bias >= NEGLIGIBLE_BIAS and scope.global_frames > 0
        # Without a bias the phases do not differ: one plan serves both.
        phases = tuple(
            Phase(favours_global, favoured_only) for favours_global in ((True, False) if scope.phase_bias else (True,))
        )
        build: Callable[..., AttentionPlan | JointPlan] = JointPlan.build if joint else AttentionPlan.build
        plan_phase = partial(
            build, clips, rank, scenes, scope, dtype=dtype, device=device, position_count=position_count
        )
        plans = [plan_phase(phase) for phase in phases]
        needs = tuple(frozenset() if joint else halo_frames(clip, scenes, CONVOLUTION_REACH) for clip in clips)
        return cls(
            clips=clips,
            clip=clips[rank],
            scenes=scenes,
            pieces=pieces_of(clips[rank], scenes),
            scope=scope,
            global_frames=even_global_frames(scenes, scope),
            global_phase=plans[0],
            local_phase=plans[-1],
            convolution_plan=FramePlan.build(clips, needs, rank),
            rank=rank,
            phases=phases,
            plan_phase=plan_phase,
            position_count=position_count,
            joint=joint,
        )

    def with_global_frames(self, global_frames: GlobalFrames) -> Layout:
        """Plan the attention anew, with other global frames; every rank does it with the same ones, between steps."""
        plans = [self.plan_phase(phase, global_frames=global_frames) for phase in self.phases]
        return replace(self, global_frames=global_frames, global_phase=plans[0], local_phase=plans[-1])
