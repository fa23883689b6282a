"""Everything about one generation that does not change from step to step: clips, plans and masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vinf_core.context.partition import attention_frames, halo_frames
from vinf_core.context.scope import scope_mask
from vinf_core.distributed.exchange import FramePlan
from vinf_core.types import Clip, TemporalScope

CONVOLUTION_REACH = 4
"""A TemporalConvLayer stacks four convolutions of three frames: its output sees four frames to each side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One rank's view of a generation; built once and read by every temporal module."""

    clips: tuple[Clip, ...]
    clip: Clip
    """This rank's own."""
    frame_count: int
    scope: TemporalScope
    attention_plan: FramePlan
    convolution_plan: FramePlan
    global_phase_mask: torch.Tensor
    """``[f, keys]`` logits for timesteps above the phase timestep."""
    local_phase_mask: torch.Tensor
    """``[f, keys]`` logits for the other timesteps."""
    inside_video: torch.Tensor | None
    """``[f + 2 * CONVOLUTION_REACH]`` of 0 and 1: which frames of the padded clip exist; None when all do."""

    @classmethod
    def build(
        cls,
        clips: tuple[Clip, ...],
        rank: int,
        scope: TemporalScope,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Layout:
        """Plan a generation for ``rank``; masks are made in ``dtype`` on ``device``."""
        frame_count = clips[-1].stop
        clip = clips[rank]
        attention_plan = FramePlan.build(clips, tuple(attention_frames(c, scope, frame_count) for c in clips), rank)
        convolution_plan = FramePlan.build(
            clips, tuple(halo_frames(c, CONVOLUTION_REACH, frame_count) for c in clips), rank
        )
        # Without a bias the phases do not differ: one mask serves both.
        phases = (True, False) if scope.phase_bias else (True,)
        masks = [
            scope_mask(clip.frames, attention_plan.frames, scope, frame_count, global_phase=phase).to(device, dtype)
            for phase in phases
        ]
        padded = range(clip.start - CONVOLUTION_REACH, clip.stop + CONVOLUTION_REACH)
        exists = [0 <= frame < frame_count for frame in padded]
        return cls(
            clips=clips,
            clip=clip,
            frame_count=frame_count,
            scope=scope,
            attention_plan=attention_plan,
            convolution_plan=convolution_plan,
            global_phase_mask=masks[0],
            local_phase_mask=masks[-1],
            inside_video=None if all(exists) else torch.tensor(exists, device=device, dtype=dtype),
        )

    @property
    def missing_before(self) -> int:
        """Frames of the convolution's left padding that lie before the video."""
        return max(0, CONVOLUTION_REACH - self.clip.start)

    @property
    def missing_after(self) -> int:
        """Frames of the convolution's right padding that lie after the video."""
        return max(0, self.clip.stop + CONVOLUTION_REACH - self.frame_count)
