"""Global frames chosen by what they show: of each segment of a video the frame that says most.

After LongDiff's informative frame selection (arXiv 2503.18150): as many segments as global frames, and of each one the
frame with the largest sum of entropy and difference to the frame before it, both of a map pooled over channels. The
paper scores the feature maps of the model; here it is what the solver takes the clean latents to be, so that one
selection serves all attentions, and a model needs no hooks. Noise says nothing about a video: a generation begins with
evenly spaced frames and chooses after steps 1, 2, 4, 8 and so on, while the picture still changes much; that is a few
selections, whatever the number of steps.

Every rank measures its own frames; what it finds is summed with the zeros of the other ranks, so that all ranks choose
from the same numbers. Scores are rounded to a grid, and of equal ones the frame nearest to the evenly spaced one wins:
most frames that only rounding tells apart stay where they are. When clips are cut differently, a score that lies near a
line of the grid may still fall to either side; another frame of nearly the same score is chosen then, and the video
differs by more than rounding. In float64 that is out of reach, in float32 rare. In half precision it happens: rounding
moves scores by some thousandths there, so that a coarser grid makes it less frequent, and no grid rules it out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.layout import Layout
from vinf_core.context.pieces import GlobalFrames, sampled_stretches
from vinf_core.distributed.exchange import Exchange, FramePlan
from vinf_core.errors import CheckpointError
from vinf_core.types import TemporalScope

LEVELS = 25
"""Levels of the histogram whose entropy counts."""

LARGEST_LEVEL = 3.0
"""The levels lie from minus this to this: clean latents are scaled to a variance of about 1."""

SCORE_GRID = 1024
"""Scores are rounded to 1 / this."""

HALF_SCORE_GRID = 64
"""The same where a model computes in half precision."""


class KeyFrames:
    """Chooses one generation's global frames, on every rank alike."""

    def __init__(self, context: ClipContext, dtype: torch.dtype) -> None:
        """Make one.

        Args:
            context: has taken up the generation's layout.
            dtype: that the model computes in.
        """
        self._context = context
        self._score_grid = SCORE_GRID if dtype.itemsize >= 4 else HALF_SCORE_GRID

    def step_ended(self, completed_steps: int, clean: torch.Tensor) -> None:
        """Choose anew when it is time; every rank calls it after every step that another one follows.

        Args:
            completed_steps: steps done, at least 1.
            clean: what the solver takes the clip's clean latents to be, ``[f, C, h, w]``; a rank with an empty clip
                passes those of its idle frame, which do not count.
        """
        if completed_steps & (completed_steps - 1):
            return
        layout, exchange = self._context.layout, self._context.exchange
        features = frame_features(clean[: layout.clip.count], layout, exchange)
        self._context.choose_global_frames(
            choose_key_frames(features, layout.scenes, layout.scope, score_grid=self._score_grid)
        )

    def of_clip(self) -> tuple[bool, ...]:
        """Say of each frame of the clip whether it is a global one."""
        layout = self._context.layout
        chosen = {frame for frames in layout.global_frames for frame in frames}
        return tuple(frame in chosen for frame in layout.clip.frames)

    def resume(self, of_clip: tuple[bool, ...] | None) -> None:
        """Take up the choice of an earlier run; every rank calls it with what its clip's frames were.

        Raises:
            CheckpointError: the earlier run chose none.
        """
        if of_clip is None:
            raise CheckpointError("is_key_frame: the checkpoint does not say which frames are global ones")
        layout, exchange = self._context.layout, self._context.exchange
        flags = torch.zeros(layout.scenes[-1].stop, dtype=torch.float64)
        own = layout.clip
        flags[own.start : own.stop] = torch.tensor(of_clip[: own.count], dtype=torch.float64)
        chosen = exchange.sum(flags.to(exchange.device)).cpu().nonzero().flatten().tolist()
        stretches = sampled_stretches(layout.scenes, layout.scope)
        self._context.choose_global_frames(
            tuple(tuple(frame for frame in chosen if frame in stretch) for stretch in stretches)
        )


def frame_features(clean: torch.Tensor, layout: Layout, exchange: Exchange) -> torch.Tensor:
    """Measure every frame of the video; every rank calls it at the same place.

    A frame's map m is the mean of its clean latents over channels. Its entropy is that of the histogram of m over
    `LEVELS` levels, each value shared by its two nearest levels so that it is continuous: ``-sum p ln p``, in nats. Its
    difference is the mean of ``|m - m of the frame before|``.

    Args:
        clean: ``[f, C, h, w]`` of the clip's frames.
        layout: of the generation.
        exchange: brings the frame before the clip, and the features of the other ranks.

    Returns:
        float64 ``[2, F]`` on the CPU: entropy and difference of every frame, the same bits on every rank. A scene's
        first frame has a difference of 0.
    """
    begins = {scene.start for scene in layout.scenes}
    needs = tuple(
        frozenset({clip.start - 1}) if clip.count and clip.start not in begins else frozenset() for clip in layout.clips
    )
    plan = FramePlan.build(layout.clips, needs, layout.rank)
    maps = clean.double().mean(dim=1).flatten(1)
    seen = exchange.with_context(maps[None], plan)[0]
    features = torch.zeros(2, layout.clips[-1].stop, dtype=torch.float64, device=exchange.device)
    if layout.clip.count:
        own = slice(layout.clip.start, layout.clip.stop)
        features[0, own] = _entropy(maps)
        features[1, layout.clip.stop - len(seen) + 1 : layout.clip.stop] = (seen[1:] - seen[:-1]).abs().mean(dim=1)
        for start in begins.intersection(layout.clip.frames):
            features[1, start] = 0
    return exchange.sum(features).cpu()


def choose_key_frames(
    features: torch.Tensor, scenes: Sequence[range], scope: TemporalScope, *, score_grid: int = SCORE_GRID
) -> GlobalFrames:
    """Choose of each segment the frame with the largest sum of entropy and difference.

    Segment j of G of a stretch of F frames begins ``floor(j F / G)`` after its start; one without frames has none.

    Args:
        features: as `frame_features` returns them.
        scenes: of the video.
        scope: how many there are, and what they sample.
        score_grid: scores are rounded to 1 / this.
    """
    entropy, difference = features.nan_to_num().clone()
    for scene in scenes:
        # A scene's first frame must neither be favoured nor ruled out: it differs from its one neighbour.
        if len(scene) > 1:
            difference[scene.start] = difference[scene.start + 1]
    scores = ((entropy + difference) * score_grid).round().tolist()
    stretches = sampled_stretches(scenes, scope)  # all the same one, where they are the whole video
    best = {stretch: _best_frames(scores, stretch, scope.global_frames) for stretch in set(stretches)}
    return tuple(best[stretch] for stretch in stretches)


def _best_frames(scores: Sequence[float], stretch: range, count: int) -> tuple[int, ...]:
    best = []
    for index in range(count):
        segment = stretch[index * len(stretch) // count : (index + 1) * len(stretch) // count]
        even = stretch.start + (2 * index + 1) * len(stretch) // (2 * count)
        if segment:
            best.append(max(segment, key=lambda frame: (scores[frame], -abs(frame - even), frame)))
    return tuple(best)


def _entropy(maps: torch.Tensor) -> torch.Tensor:
    """``[f, positions]`` → ``[f]``."""
    places = (maps + LARGEST_LEVEL).mul((LEVELS - 1) / (2 * LARGEST_LEVEL)).clamp(0, LEVELS - 1)
    entropy = torch.zeros_like(maps[:, 0])
    # Level by level: no atomic addition, whose order would decide about the last bit on a GPU.
    for level in range(LEVELS):
        share = (1 - (places - level).abs()).clamp_min(0).mean(dim=1)
        entropy -= torch.special.xlogy(share, share)
    return entropy
