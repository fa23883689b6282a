"""The costs of the published scheme: how Video-Infinity's released code spends its time, in code of our own.

What is kept is what costs: scores of every query against clip, padding and global frames, formed in full; a mask filled
frame by frame in a Python loop at every call; keys and values fetched one after the other, halo and global frames
apart; a wait for the device after each; group norms of the clip alone. Its pictures do not matter here and are not
those of the published code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.subject import ALONE
from benchmarks.traffic import CONVOLUTION_REACH, PUBLISHED_GLOBAL_FRAMES, PUBLISHED_PADDING
from vinf_core.distributed.exchange import Exchange, FramePlan
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.events import StageClock
from vinf_core.models.text_to_video import find_temporal_sites
from vinf_core.types import Clip

PHASE_BIAS = 10.0


class PublishedScheme:
    """A rank of the published scheme around a stock UNet, whose temporal modules it replaces in place."""

    def __init__(self, unet: Any, topology: Topology, groups: Groups = ALONE) -> None:
        self.exchange = Exchange(topology, groups.data, StageClock(topology.device))
        self._unet = unet
        self._topology = topology
        self._clips: tuple[Clip, ...] = ()
        sites = find_temporal_sites(unet)
        for name in sites.convolutions:
            parent, _, child = name.rpartition(".")
            setattr(unet.get_submodule(parent), child, _Convolution(unet.get_submodule(name), self))
        for name in sites.transformers:
            for block in unet.get_submodule(name).transformer_blocks:
                for attention in (block.attn1, block.attn2):
                    attention.set_processor(_Attention(self))

    def begin(self, clip_frames: int) -> None:
        """Plan clips of ``clip_frames`` each, at least the padding; the scheme knows no others."""
        if clip_frames < PUBLISHED_PADDING:
            raise ValueError(f"clip_frames: {clip_frames} is less than the padding of {PUBLISHED_PADDING}")
        ranks = self._topology.world_size
        self._clips = tuple(Clip(rank * clip_frames, clip_frames) for rank in range(ranks))
        stride = max(1, ranks * clip_frames // PUBLISHED_GLOBAL_FRAMES)
        sampled = frozenset(range(0, stride * PUBLISHED_GLOBAL_FRAMES, stride)) & frozenset(range(ranks * clip_frames))
        self._global_frames = sampled
        self._global_plan = self._plan([sampled] * ranks)
        self._halo_plans = {reach: self._halo_plan(reach) for reach in (CONVOLUTION_REACH, PUBLISHED_PADDING)}

    @torch.inference_mode()
    def step(self, latents: torch.Tensor, timestep: float, text: torch.Tensor) -> torch.Tensor:
        """``[B, C, f, h, w]`` and ``[B, tokens, dim]`` → ``[B, C, f, h, w]``."""
        prediction: torch.Tensor = self._unet(latents, timestep, text, return_dict=False)[0]
        return prediction

    def halo(self, own: torch.Tensor, reach: int) -> torch.Tensor:
        """``[B, f, ...]`` → ``[B, f + 2 * reach, ...]``, zeros beyond the video."""
        own_clip = self._clips[self._topology.rank]
        padded = self.exchange.with_context(own, self._halo_plans[reach])
        before = reach if own_clip.start == 0 else 0
        after = reach if own_clip.stop == self._clips[-1].stop else 0
        blank = [own.new_zeros(own.shape[0], count, *own.shape[2:]) for count in (before, after)]
        self._synchronise()
        return torch.cat([blank[0], padded, blank[1]], dim=1)

    def global_sample(self, own: torch.Tensor) -> torch.Tensor:
        """``[B, f, ...]`` → ``[B, G, ...]``."""
        everything = self.exchange.with_context(own, self._global_plan)
        self._synchronise()
        return everything[:, [i for i, frame in enumerate(self._global_plan.frames) if frame in self._global_frames]]

    def _halo_plan(self, reach: int) -> FramePlan:
        stop = self._clips[-1].stop
        return self._plan([frozenset(range(max(0, c.start - reach), min(stop, c.stop + reach))) for c in self._clips])

    def _plan(self, needs: list[frozenset[int]]) -> FramePlan:
        return FramePlan.build(self._clips, tuple(needs), self._topology.rank)

    def _synchronise(self) -> None:
        if self._topology.device.type == "cuda":
            torch.cuda.synchronize()


class _Attention:
    """Keys of clip, padding and global frames; all scores at once."""

    def __init__(self, scheme: PublishedScheme) -> None:
        self._scheme = scheme

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        batch, frames, _channels = hidden_states.shape
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(self._gather(attn.to_k(hidden_states)))
        value = attn.head_to_batch_dim(self._gather(attn.to_v(hidden_states)))
        mask = torch.ones(frames, key.shape[1], device=query.device, dtype=query.dtype)
        for frame in range(frames):
            mask[frame, : frames + 2 * PUBLISHED_PADDING] = float("-inf")
            mask[frame, frame : frame + 2 * PUBLISHED_PADDING + 1] = PHASE_BIAS
        scores = torch.matmul(query, key.transpose(1, 2)) * attn.scale + mask
        attended = attn.batch_to_head_dim(torch.matmul(scores.softmax(dim=-1), value))
        out: torch.Tensor = attn.to_out[1](attn.to_out[0](attended))
        return out.view(batch, frames, -1)

    def _gather(self, projected: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [self._scheme.halo(projected, PUBLISHED_PADDING), self._scheme.global_sample(projected)], dim=1
        )


class _Convolution(nn.Module):
    """The stock layer over the padded clip, cut back afterwards."""

    def __init__(self, layer: nn.Module, scheme: PublishedScheme) -> None:
        super().__init__()
        self.layer = layer
        self._scheme = scheme

    def forward(self, hidden_states: torch.Tensor, num_frames: int = 1) -> torch.Tensor:
        """``[B * f, C, h, w]`` → ``[B * f, C, h, w]``."""
        padded = self._scheme.halo(torch.unflatten(hidden_states, 0, (-1, num_frames)), CONVOLUTION_REACH)
        out: torch.Tensor = self.layer(padded.flatten(0, 1), num_frames=padded.shape[1])
        frames = torch.unflatten(out, 0, (-1, padded.shape[1]))
        return frames[:, CONVOLUTION_REACH:-CONVOLUTION_REACH].flatten(0, 1)
