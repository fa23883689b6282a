"""The one object that the wrapped temporal modules share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vinf_core.context.blocks import AttentionPlan
from vinf_core.context.joint_plan import JointPlan
from vinf_core.context.layout import Layout
from vinf_core.context.pieces import GlobalFrames
from vinf_core.context.slicing import Slices
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.errors import OutOfStepError


class ClipContext:
    """Carries the layout of the generation in hand, the phase of the step in hand, and the way to the other ranks."""

    def __init__(self, exchange: Exchange, context_axis: Exchange | None = None) -> None:
        """Make the context of a rank.

        Args:
            exchange: with the ranks of the other clips.
            context_axis: with the ranks that share out this clip's tokens; None: this rank has them all.
        """
        self.exchange = exchange
        self._inert = Exchange(Topology.single(exchange.device), None, exchange.clock)
        self.context_axis = context_axis or self._inert
        self.slices = Slices.suited_to(exchange.device)
        self._layout: Layout | None = None
        self._attention: AttentionPlan | JointPlan | None = None

    def begin_generation(self, layout: Layout) -> None:
        """Take up a generation; modules read the layout from now on."""
        self._layout = layout
        self._attention = None
        self.exchange.begin_generation()
        self.context_axis.begin_generation()

    def begin_step(self, timestep: float) -> None:
        """Choose the phase: timesteps above the scope's phase timestep favour the global frames."""
        layout = self.layout
        above = timestep > layout.scope.phase_timestep
        self._attention = layout.global_phase if above else layout.local_phase

    def choose_global_frames(self, global_frames: GlobalFrames) -> None:
        """Let the next steps see these global frames; every rank calls it with the same ones, between two steps."""
        if global_frames != self.layout.global_frames:
            self._layout = self.layout.with_global_frames(global_frames)
            self._attention = None

    @contextmanager
    def alone(self, layout: Layout, timestep: float) -> Iterator[None]:
        """Compute a stretch of the video as if it were all there is: nothing is exchanged inside the block.

        Args:
            layout: of the stretch, for a world of one rank.
            timestep: of the step in hand.
        """
        before = self.exchange, self._layout, self._attention
        self.exchange = self._inert
        self._layout = layout
        self.begin_step(timestep)
        try:
            yield
        finally:
            self.exchange, self._layout, self._attention = before

    def end_generation(self) -> None:
        """Let go of the layout and its masks."""
        self._layout = None
        self._attention = None

    @property
    def layout(self) -> Layout:
        """The generation in hand."""
        if self._layout is None:
            raise OutOfStepError("a temporal module ran outside a generation")
        return self._layout

    @property
    def attention(self) -> AttentionPlan:
        """What temporal attention exchanges and computes in the step in hand."""
        if not isinstance(self._attention, AttentionPlan):
            raise OutOfStepError("a temporal module ran outside a step")
        return self._attention

    @property
    def joint_attention(self) -> JointPlan:
        """What joint attention exchanges and computes in the step in hand."""
        if not isinstance(self._attention, JointPlan):
            raise OutOfStepError("a joint attention ran outside a step")
        return self._attention

    def split_frames(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[B * f, ...]`` as it comes through the UNet → ``[B, f, ...]`` of this rank's clip, which is not empty."""
        frames = self.layout.clip.count
        return hidden.reshape(hidden.shape[0] // frames, frames, *hidden.shape[1:])
