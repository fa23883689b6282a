"""What the attentions of a 3-D transformer exchange and compute: which latent frames see which, and at what position.

Queries are cut into groups on a grid of the scene, never of the clips, so that the plan of the whole does not depend on
how the video is cut. A group sees one run of neighbouring frames and the global frames outside it, all of them at
positions of its own window: no mask, and never a position that was not trained. A frame is a latent frame here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch

from vinf_core.context.pieces import GlobalFrames, Piece, even_global_frames, global_frame_indices, pieces_of
from vinf_core.context.positions import PositionWindow, window_groups
from vinf_core.context.scope import Phase
from vinf_core.distributed.exchange import FramePlan
from vinf_core.errors import ConfigError
from vinf_core.types import Clip, TemporalScope


class Source(Enum):
    """Where the keys and values of a frame lie."""

    OWN = "own"
    """Among the frames of this rank's clip."""
    BEFORE = "before"
    """Among the frames received from ranks before this one."""
    AFTER = "after"
    """Among the frames received from ranks after this one."""


@dataclass(frozen=True, slots=True)
class KeySegment:
    """Key frames that some queries see with one bias, all of them at hand at the same time."""

    parts: tuple[tuple[Source, slice], ...]
    """Runs of frames, ascending; each says where it lies."""
    positions: torch.Tensor
    """int64 ``[frames]``, of the parts' frames in turn."""
    bias: float = 0.0
    """Added to the logits."""

    @property
    def frame_count(self) -> int:
        """Key frames that it has."""
        return sum(part.stop - part.start for _, part in self.parts)


@dataclass(frozen=True, slots=True)
class QueryGroup:
    """Neighbouring latent frames of a clip that see the same keys at the same positions."""

    queries: slice
    """Of the clip's own frames."""
    positions: torch.Tensor
    """int64 ``[queries]``: theirs."""
    local: tuple[KeySegment, ...]
    """Of the clip's own frames; the first one has no bias and holds the queries' own frames."""
    remote: tuple[KeySegment, ...]
    """Of the frames that other ranks send."""

    @property
    def key_frame_count(self) -> int:
        """Key frames that every query sees."""
        return sum(segment.frame_count for segment in (*self.local, *self.remote))


@dataclass(frozen=True, slots=True)
class JointPlan:
    """What one phase exchanges and computes."""

    frames: FramePlan
    """What travels; its ``sends`` index `outbox`."""
    outbox: torch.Tensor
    """Own frames that some other rank needs, int64, counted from the clip's start, ascending: all that is packed."""
    groups: tuple[QueryGroup, ...]
    """None for an empty clip."""
    text: KeySegment | None
    """Own frames that the text sees; None: none of them."""
    own_count: int
    """Frames of the clip; 0: an idle one walks along, which nobody sees."""

    @classmethod
    def build(
        cls,
        clips: tuple[Clip, ...],
        rank: int,
        scenes: tuple[range, ...],
        scope: TemporalScope,
        phase: Phase,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        position_count: int = 0,
        global_frames: GlobalFrames | None = None,
    ) -> JointPlan:
        """Plan a phase for ``rank``.

        A scene of at most ``position_count`` frames is seen whole by all its queries, without any bias: there the model
        is the stock one. Leaving negligible context out (``phase.favoured_only``) is no option here and is ignored: the
        bias spares a query's own frame, whose keys have to be there in any case.

        Args:
            clips, rank, scenes, scope, device, position_count: see `Layout.build`.
            phase: what its steps favour.
            dtype: not used: there are no masks.
            global_frames: other than the evenly spaced ones.

        Raises:
            ConfigError: more than one scene, or no positions.
        """
        if len(scenes) != 1:
            raise ConfigError(f"scenes: {len(scenes)} of them; joint attention knows one")
        if position_count < 1:
            raise ConfigError(f"position_count: {position_count} is less than 1, which joint attention needs")
        del dtype
        chosen = (even_global_frames(scenes, scope) if global_frames is None else global_frames)[0]
        sight = _Sight(scenes[0], scope, phase, position_count, chosen)
        needs = tuple(
            frozenset(
                frame for piece in pieces_of(clip, scenes) for group in sight.groups(piece) for frame in group.seen
            )
            for clip in clips
        )
        own = clips[rank]
        frames = FramePlan.build(clips, needs, rank)
        storage = _Storage(own, frames)
        sampled = global_frame_indices(scenes[0], position_count)
        at = {frame: position for position, frame in enumerate(sampled) if frame in own.frames}
        outbox = sorted({frame for _, wanted in frames.sends for frame in wanted})
        packed = {frame: index for index, frame in enumerate(outbox)}
        sends = tuple((peer, tuple(packed[frame] for frame in wanted)) for peer, wanted in frames.sends)
        return cls(
            frames=replace(frames, sends=sends),
            outbox=torch.tensor(outbox, dtype=torch.int64, device=device),
            groups=tuple(
                _planned(queries, group, sight, storage, device)
                for piece in pieces_of(own, scenes)
                for group in sight.groups(piece)
                for queries in sight.cut(group, own)
            ),
            text=storage.segment(at, at.values(), 0.0, device, position_count) if at else None,
            own_count=own.count,
        )


@dataclass(frozen=True, slots=True)
class _Group:
    """Queries on the scene's grid, those of other clips included, and what they see."""

    frames: range
    window: PositionWindow
    seen: tuple[int, ...]
    """Ascending."""
    neighbours: range


@dataclass(frozen=True, slots=True)
class _Sight:
    """Who sees what in a scene."""

    scene: range
    scope: TemporalScope
    phase: Phase
    position_count: int
    sampled: tuple[int, ...]

    @property
    def bias(self) -> float:
        """Of favoured frames; a scene that every query sees whole has none."""
        return 0.0 if len(self.scene) <= self.position_count else self.scope.phase_bias

    def groups(self, piece: Piece) -> list[_Group]:
        """Groups that have queries in a piece of a clip."""
        found = []
        for group, window in window_groups(piece, self.scope, self.scene.stop, self.position_count):
            if group.frames.start < piece.frames.stop and piece.frames.start < group.frames.stop:
                whole = len(self.scene) <= self.position_count
                run = self.scene if whole else group.within(self.scope.half_window)
                seen = tuple(sorted({*run, *self.sampled}))
                found.append(_Group(group.frames, window, seen, run))
        return found

    def cut(self, group: _Group, own: Clip) -> list[range]:
        """The queries of a group that are a clip's own; one by one where a bias must spare each one's own frame."""
        queries = range(max(group.frames.start, own.start), min(group.frames.stop, own.stop))
        return [range(frame, frame + 1) for frame in queries] if self.bias else [queries]

    def favours(self, frame: int, group: _Group, query: int) -> bool:
        """Whether a query's logits of a frame are biased; never those of its own frame."""
        if not self.bias or frame == query:
            return False
        if not self.phase.favours_global:
            return frame in group.neighbours
        place = bisect_left(self.sampled, frame)
        return place < len(self.sampled) and self.sampled[place] == frame


class _Storage:
    """Where frames lie on a rank."""

    def __init__(self, own: Clip, frames: FramePlan) -> None:
        self._places = {frame: (Source.OWN, frame - own.start) for frame in own.frames}
        before = [frame for frame in frames.frames if frame < own.start]
        after = [frame for frame in frames.frames if frame >= own.stop]
        self._places |= {frame: (Source.BEFORE, index) for index, frame in enumerate(before)}
        self._places |= {frame: (Source.AFTER, index) for index, frame in enumerate(after)}

    def is_own(self, frame: int) -> bool:
        return self._places[frame][0] is Source.OWN

    def segment(
        self,
        frames: Iterable[int],
        positions: Iterable[int],
        bias: float,
        device: torch.device | str,
        position_count: int,
    ) -> KeySegment:
        """Frames, ascending, as runs of where they lie."""
        parts: list[tuple[Source, slice]] = []
        for frame in frames:
            source, place = self._places[frame]
            if parts and parts[-1][0] is source and parts[-1][1].stop == place:
                parts[-1] = (source, slice(parts[-1][1].start, place + 1))
            else:
                parts.append((source, slice(place, place + 1)))
        return KeySegment(tuple(parts), _checked(list(positions), position_count).to(device), bias)


def _planned(queries: range, group: _Group, sight: _Sight, storage: _Storage, device: torch.device | str) -> QueryGroup:
    own_positions = group.window.positions(torch.arange(queries.start, queries.stop))
    positions = dict(zip(group.seen, group.window.positions(torch.tensor(group.seen)).tolist(), strict=True))
    length = sight.position_count

    def segments(own: bool) -> tuple[KeySegment, ...]:
        found = []
        for favoured in (False, True):
            frames = [
                frame
                for frame in group.seen
                if storage.is_own(frame) == own and sight.favours(frame, group, queries.start) == favoured
            ]
            if frames:
                bias = sight.bias if favoured else 0.0
                found.append(storage.segment(frames, [positions[f] for f in frames], bias, device, length))
        return tuple(found)

    first = storage.segment(queries, own_positions.tolist(), 0.0, device, length)
    return QueryGroup(first.parts[0][1], first.positions, segments(own=True), segments(own=False))


def _checked(positions: Sequence[int], position_count: int) -> torch.Tensor:
    """As a tensor, once it is certain that the model was trained with every one of them."""
    assert all(0 <= position < position_count for position in positions), (
        f"positions {min(positions)} to {max(positions)} are not in [0, {position_count - 1}]"
    )
    return torch.tensor(positions, dtype=torch.int64)
