"""The one object that the wrapped temporal modules share."""

from __future__ import annotations

import torch

from vinf_core.context.blocks import AttentionPlan
from vinf_core.context.layout import Layout
from vinf_core.context.pieces import GlobalFrames
from vinf_core.context.slicing import Slices
from vinf_core.distributed.exchange import Exchange
from vinf_core.errors import OutOfStepError


class ClipContext:
    """Carries the layout of the generation in hand, the phase of the step in hand, and the way to the other ranks."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.slices = Slices.suited_to(exchange.device)
        self._layout: Layout | None = None
        self._attention: AttentionPlan | None = None

    def begin_generation(self, layout: Layout) -> None:
        """Take up a generation; modules read the layout from now on."""
        self._layout = layout
        self._attention = None
        self.exchange.begin_generation()

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
        if self._attention is None:
            raise OutOfStepError("a temporal module ran outside a step")
        return self._attention

    def split_frames(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[B * f, ...]`` as it comes through the UNet → ``[B, f, ...]`` of this rank's clip, which is not empty."""
        frames = self.layout.clip.count
        return hidden.reshape(hidden.shape[0] // frames, frames, *hidden.shape[1:])
