"""One attention for space, time and text over clips: what the processors of 3-D transformers share.

Keys travel after their norm and before their rotation, so that every rank rotates them to the positions of its own
queries' windows. What lies on this rank is computed while the rest travels; the parts are merged exactly
(`vinf_core.context.segments`). The text sees an even sample of all clips: every rank computes its part, all parts are
gathered and merged in rank order, and every rank goes on with the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.joint_plan import JointPlan, KeySegment, Source
from vinf_core.context.partition import partition
from vinf_core.context.segments import Attended, attend, empty, merge
from vinf_core.errors import OutOfStepError


@dataclass(frozen=True, slots=True)
class Heads:
    """Projected and normed tokens, not rotated."""

    query: torch.Tensor
    """``[B, tokens, heads, d]``, or with latent frames and the tokens of each: ``[B, f, n, heads, d]``."""
    key: torch.Tensor
    """Of the same shape."""
    value: torch.Tensor
    """Of the same shape."""


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """The tokens of a clip."""

    frames: int
    """Latent frames; an empty clip has an idle one."""
    rows: int
    columns: int

    def rows_of(self, ranks: int) -> tuple[range, ...]:
        """Which rows of every frame each of the ranks has that share out a clip's tokens; there may be none."""
        return tuple(part.frames for part in partition(self.rows, [1] * ranks))


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What all attentions of one call of the transformer have in common."""

    grid: TokenGrid
    text_counts: tuple[int, ...] | None = None
    """For every batch entry how many text tokens are no padding, which comes last; None: all of them."""


class JointAttention:
    """Attends for the processors of one transformer; knows the call in hand."""

    def __init__(self, context: ClipContext) -> None:
        self._context = context
        self._forward: ForwardPass | None = None

    def begin(self, forward: ForwardPass) -> None:
        """Take up a call of the transformer."""
        expected = max(1, self._context.joint_attention.own_count)
        if forward.grid.frames != expected:
            raise OutOfStepError(f"latent frames: the transformer got {forward.grid.frames}, the clip has {expected}")
        self._forward = forward

    @property
    def forward_pass(self) -> ForwardPass:
        """The call in hand."""
        if self._forward is None:
            raise OutOfStepError("a joint attention ran outside a call of its transformer")
        return self._forward

    def own_rows(self) -> range:
        """Rows of every frame that this rank has of its clip's."""
        axis = self._context.context_axis.topology
        return self.forward_pass.grid.rows_of(axis.world_size)[axis.rank]

    def with_all_rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[B, f * own rows * columns, C]`` → ``[B, f * rows * columns, C]``, the same on all ranks of the clip."""
        axis, grid = self._context.context_axis, self.forward_pass.grid
        if axis.topology.world_size == 1:
            return tokens
        rows = [len(part) for part in grid.rows_of(axis.topology.world_size)]
        own = torch.unflatten(tokens, 1, (grid.frames, len(self.own_rows()), grid.columns))
        padded = F.pad(own, (0, 0, 0, 0, 0, max(rows) - own.shape[2]))
        parts = [part[:, :, :count] for part, count in zip(axis.gather(padded), rows, strict=True)]
        return torch.cat(parts, dim=2).flatten(1, 3)

    def __call__(self, video: Heads, text: Heads, rotary: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend.

        Args:
            video: ``[B, f * own rows * columns, heads, d]`` of this clip.
            text: ``[B, tokens, heads, d]``, the same on every rank.
            rotary: complex ``[positions, rows * columns, d / 2]``: the turn of every pair of dimensions.

        Returns:
            Video and text, ``[B, tokens, heads * d]`` each.
        """
        context, forward = self._context, self.forward_pass
        axis = context.context_axis
        ranks, rank = axis.topology.world_size, axis.topology.rank
        counts = [len(rows) * forward.grid.columns for rows in forward.grid.rows_of(ranks)]
        frames, batch = forward.grid.frames, video.query.shape[0]
        if ranks > 1:
            # Every frame is a batch entry: then the tokens of all ranks lie in their order within each frame.
            own = torch.unflatten(torch.stack((video.query, video.key, video.value)), 2, (frames, counts[rank]))
            swapped = axis.swap_heads(own.flatten(0, 2), counts)
            video = Heads(*torch.unflatten(swapped, 0, (3, batch, frames)).unbind())
            text = Heads(*(part.tensor_split(ranks, dim=2)[rank] for part in (text.query, text.key, text.value)))
        else:
            whole = (frames, counts[rank])
            video = Heads(*(torch.unflatten(part, 1, whole) for part in (video.query, video.key, video.value)))
        seen_video, seen_text = self._attend(video, text, rotary)
        own_video = torch.unflatten(axis.swap_tokens(seen_video.flatten(0, 1), counts), 0, (batch, frames))
        all_text = torch.cat(axis.gather(seen_text), dim=2)
        return own_video.flatten(1, 2).flatten(2), all_text.flatten(2)

    def _attend(self, video: Heads, text: Heads, rotary: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """With all tokens of the clip's frames, for some of the heads: the video's and the text's states."""
        context = self._context
        plan, exchange = context.joint_attention, context.exchange
        under_way = exchange.begin(_packed(video, plan), plan.frames)
        work = _Work(video, text, rotary, self.forward_pass.text_counts, context.slices.frame_bytes)
        out = torch.zeros_like(video.query) if not plan.groups else torch.empty_like(video.query)
        waiting = []
        for group in plan.groups:
            context.slices.begun_count += 1
            query = work.queries(group.queries, group.positions)
            first, *others = group.local
            local = merge([work.with_text(query, first), *(work.segment(query, other) for other in others)])
            if group.remote:
                waiting.append((group, local))
            else:
                work.put(local, out[:, group.queries])
        parts = exchange.gather(_message(work.text_part(plan.text)))
        seen_text = merge([work.text_alone(), *(Attended(part[..., :-1], part[..., -1]) for part in parts)])
        work.receive(*under_way.wait())
        for group, local in waiting:
            context.slices.begun_count += 1
            query = work.queries(group.queries, group.positions)
            whole = merge([local, *(work.segment(query, segment) for segment in group.remote)])
            work.put(whole, out[:, group.queries])
        return out, seen_text.out.transpose(1, 2).to(text.query.dtype)


class _Work:
    """The keys at hand in one attention, and what is done with them."""

    def __init__(
        self,
        video: Heads,
        text: Heads,
        rotary: torch.Tensor,
        text_counts: tuple[int, ...] | None,
        rotated_bytes: int,
    ) -> None:
        self._query = video.query
        self._sources = {Source.OWN: (video.key, video.value)}
        self._text = text
        self._rotary = rotary
        self._batches = _batches(text_counts, text.query.shape[:2])
        wide = torch.promote_types(video.query.dtype, torch.float32)
        frame = video.query.shape[0] * video.query[0, 0].numel() * wide.itemsize
        self._frames_at_once = max(1, rotated_bytes // max(1, frame))

    def receive(self, before: torch.Tensor | None, after: torch.Tensor | None) -> None:
        """Take in what other ranks sent: ``[B, frames, 2, n, heads, d]`` of keys and values."""
        for source, arrived in ((Source.BEFORE, before), (Source.AFTER, after)):
            if arrived is not None:
                self._sources[source] = (arrived[:, :, 0], arrived[:, :, 1])

    def queries(self, frames: slice, positions: torch.Tensor) -> torch.Tensor:
        """Own queries at their positions, ``[B, heads, tokens, d]``."""
        own = self._query[:, frames]
        rotated = torch.empty_like(own, memory_format=torch.contiguous_format)
        self._rotate(own, positions, rotated)
        return rotated.flatten(1, 2).transpose(1, 2)

    def segment(self, query: torch.Tensor, segment: KeySegment) -> Attended:
        """Attention over the video's keys of a segment."""
        key, value = self._keys(segment, 0)
        return attend(query, key.transpose(1, 2), value.transpose(1, 2)).biased(segment.bias)

    def with_text(self, query: torch.Tensor, segment: KeySegment) -> Attended:
        """Attention over the video's keys of a segment without bias, and over the text."""
        text = self._text
        key, value = self._keys(segment, text.key.shape[1])
        frames_end = key.shape[1] - text.key.shape[1]
        key[:, frames_end:], value[:, frames_end:] = text.key, text.value
        return self._by_text_count(query, key, value, frames_end)

    def text_alone(self) -> Attended:
        """The text's attention over itself."""
        text = self._text
        return self._by_text_count(text.query.transpose(1, 2), text.key, text.value, 0)

    def text_part(self, segment: KeySegment | None) -> Attended:
        """The text's attention over own frames."""
        query = self._text.query.transpose(1, 2)
        return empty(query) if segment is None else self.segment(query, segment)

    def put(self, attended: Attended, out: torch.Tensor) -> None:
        """Write a group's states to ``[B, frames, n, heads, d]``."""
        out.copy_(torch.unflatten(attended.out.transpose(1, 2), 1, out.shape[1:3]))

    def _by_text_count(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, before: int) -> Attended:
        """Attention over ``before`` keys and those of the text that follow, but for its padding."""
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        parts = [
            attend(query[rows], key[rows, :, : before + count], value[rows, :, : before + count])
            for rows, count in self._batches
        ]
        if len(parts) == 1:
            return parts[0]
        return Attended(torch.cat([part.out for part in parts]), torch.cat([part.lse for part in parts]))

    def _keys(self, segment: KeySegment, room: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys at their positions and values, ``[B, tokens + room, heads, d]``; what the room holds is left open."""
        own = self._query
        tokens = own.shape[2]
        end = segment.frame_count * tokens
        key = own.new_empty((own.shape[0], end + room, *own.shape[3:]))
        value = torch.empty_like(key)
        keys = torch.unflatten(key[:, :end], 1, (segment.frame_count, tokens))
        values = torch.unflatten(value[:, :end], 1, (segment.frame_count, tokens))
        start = 0
        for source, part in segment.parts:
            there = slice(start, start + part.stop - part.start)
            source_key, source_value = self._sources[source]
            keys[:, there], values[:, there] = source_key[:, part], source_value[:, part]
            start = there.stop
        # All in one: global frames are many parts of one frame each.
        self._rotate(keys, segment.positions, keys)
        return key, value

    def _rotate(self, states: torch.Tensor, positions: torch.Tensor, out: torch.Tensor) -> None:
        """``[B, frames, n, heads, d]`` turned to positions, in float32 or better; some at a time; ``out`` may be it."""
        wide = torch.promote_types(states.dtype, torch.float32)
        for start in range(0, states.shape[1], self._frames_at_once):
            some = slice(start, start + self._frames_at_once)
            pairs = torch.view_as_complex(torch.unflatten(states[:, some].to(wide), -1, (-1, 2)))
            turned = pairs * self._rotary[positions[some]].unsqueeze(2)
            out[:, some] = torch.view_as_real(turned).flatten(-2)


def _packed(video: Heads, plan: JointPlan) -> torch.Tensor:
    """Keys and values that other ranks need, ``[B, frames, 2, n, heads, d]``; anything where nothing travels."""
    if not (plan.frames.sends or plan.frames.receives):
        return video.key
    return torch.stack([part.index_select(1, plan.outbox) for part in (video.key, video.value)], dim=2)


def _message(part: Attended) -> torch.Tensor:
    """A text's part as one tensor, ``[B, heads, tokens, d + 1]``."""
    return torch.cat([part.out.to(part.lse.dtype), part.lse.unsqueeze(-1)], dim=-1)


def _batches(counts: Sequence[int] | None, text: Sequence[Any]) -> list[tuple[slice, int]]:
    """Batch entries that have as many text tokens, and how many; all in one where they do not differ."""
    entries, tokens = text
    if counts is None:
        return [(slice(None), tokens)]
    if len(set(counts)) == 1:
        return [(slice(None), counts[0])]
    return [(slice(entry, entry + 1), counts[entry]) for entry in range(entries)]
