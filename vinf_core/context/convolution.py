"""A TemporalConvLayer over clips: one halo exchange for its four convolutions, exact at clip borders and scene ends."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.layout import CONVOLUTION_REACH
from vinf_core.context.normalisation import Affine, scene_norms
from vinf_core.context.pieces import Piece


class ClipConvolution(nn.Module):
    """Wraps diffusers' ``TemporalConvLayer``.

    A piece is padded once by `CONVOLUTION_REACH` frames to each side; each of the four convolutions eats one of them.
    Where the scene ends sooner, each convolution pads with zeros instead, *after* the activation, as in training.
    """

    def __init__(self, layer: nn.Module, context: ClipContext) -> None:
        super().__init__()
        self.layer = layer
        self._context = context

    def forward(self, hidden_states: torch.Tensor, num_frames: int = 1) -> torch.Tensor:
        """``[B * f, C, h, w]`` → ``[B * f, C, h, w]``; ``num_frames`` is ignored, the layout knows better."""
        context = self._context
        layout, exchange = context.layout, context.exchange
        if not layout.pieces:
            for stage in range(4):
                self._norms(stage, [], hidden_states.shape[0])
            return hidden_states
        frames = context.split_frames(hidden_states).flatten(3)
        batch = frames.shape[0]
        under_way = exchange.begin(frames, layout.convolution_plan)
        own = [(p.scene_index, frames[:, _within(p.frames, layout.clip.frames)].transpose(1, 2)) for p in layout.pieces]
        norms = self._norms(0, own, batch)  # while the halos travel
        before, after = under_way.wait()
        # Frames become a dimension of their own, so that a convolution over frames is a 2-D one over (frame, position).
        seen = torch.cat([part.transpose(1, 2) for part in (before, frames, after) if part is not None], dim=2)
        seen_frames = layout.convolution_plan.span
        padded = [seen[:, :, _within(p.within(CONVOLUTION_REACH), seen_frames)] for p in layout.pieces]
        for stage in range(4):
            if stage:
                own = [
                    (p.scene_index, x[:, :, _within(p.frames, p.within(CONVOLUTION_REACH - stage))])
                    for p, x in zip(layout.pieces, padded, strict=True)
                ]
                norms = self._norms(stage, own, batch)
            padded = [
                self._convolve(stage, p, x, norm) for p, x, norm in zip(layout.pieces, padded, norms, strict=True)
            ]
        out = padded[0] if len(padded) == 1 else torch.cat(padded, dim=2)
        return hidden_states + out.transpose(1, 2).reshape(hidden_states.shape)

    def _norms(self, stage: int, own: list[tuple[int, torch.Tensor]], batch: int) -> list[Affine]:
        norm, _ = self._stage(stage)
        return scene_norms(own, len(self._context.layout.scenes), batch, norm, self._context.exchange)

    def _convolve(self, stage: int, piece: Piece, hidden: torch.Tensor, norm: Affine) -> torch.Tensor:
        """``[B, C, n, positions]`` of the frames within reach → the frames within a reach of one less."""
        have, want = piece.within(CONVOLUTION_REACH - stage), piece.within(CONVOLUTION_REACH - stage - 1)
        missing_before, missing_after = have.start == want.start, have.stop == want.stop
        _, convolution = self._stage(stage)
        out: torch.Tensor | None = None
        for positions in self._context.slices.positions(hidden):
            activated = F.silu(norm.apply(hidden[..., positions]), inplace=True)
            if missing_before != missing_after:
                activated = F.pad(activated, (0, 0, int(missing_before), int(missing_after)))
            # The same sums as the layer's own conv3d with a kernel of (3, 1, 1), which CPUs have no fast kernel for.
            part = F.conv2d(
                activated,
                convolution.weight.squeeze(-1),
                convolution.bias,
                padding=(1, 0) if missing_before and missing_after else 0,
            )
            if part.shape[-1] == hidden.shape[-1]:
                return part
            if out is None:
                out = part.new_empty((*part.shape[:-1], hidden.shape[-1]))
            out[..., positions] = part
        assert out is not None
        return out

    def _stage(self, stage: int) -> tuple[nn.GroupNorm, nn.Conv3d]:
        """One of the layer's four (norm, convolution) pairs."""
        block: Any = getattr(self.layer, f"conv{stage + 1}")
        return block[0], block[-1]


def _within(frames: range, outer: range) -> slice:
    """Where ``frames`` lie in ``outer``."""
    return slice(frames.start - outer.start, frames.stop - outer.start)
