"""Overlapping windows, fused at each step: a long video from any model, without a look at its attention.

MultiDiffusion (arXiv 2302.08113) and Gen-L-Video (arXiv 2305.18264) run a model on overlapping windows of the length it
was trained on and average what they agree on after each step; SyncTweedies (arXiv 2403.14370) found that the prediction
of the clean latents is the best thing to average. All windows here see the same noisy latents, from which the clean
ones follow, with the model's prediction, by the same two numbers in every window: an average of predictions with
weights that sum to 1 *is* the average of the clean latents, whatever the model predicts.

Windows lie on a grid of the scene's frames, and a frame's windows are summed in their order: the video does not depend
on the number of ranks. Each window is computed by one rank; only latents travel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.distributed.exchange import FramePlan
from vinf_core.models.adapter import VideoModel
from vinf_core.types import Clip, TemporalScope


def windows_of(scenes: tuple[range, ...], length: int, overlap: int) -> tuple[range, ...]:
    """Cover every scene with windows, ascending.

    Each starts ``length - overlap`` frames after the one before; a scene's last one begins sooner where it would reach
    beyond the end, so that all of them have the trained length. A shorter scene is one window.

    Args:
        scenes: the video's frames between its cuts.
        length: frames of a window, at least 1.
        overlap: frames that neighbouring windows share, less than ``length``.
    """
    windows = []
    for scene in scenes:
        start = scene.start
        while start + length < scene.stop:
            windows.append(range(start, start + length))
            start += length - overlap
        start = max(scene.start, scene.stop - length)
        windows.append(range(start, scene.stop))
    return tuple(windows)


def window_weights(window: range, scene: range, overlap: int) -> torch.Tensor:
    """How much each frame of a window counts before all of a frame's windows are made to sum to 1: float64 ``[n]``.

    1 in the middle; down to ``1 / (overlap + 1)`` over the frames that are shared with a neighbour.
    """
    places = torch.arange(len(window), dtype=torch.float64)
    weights = torch.ones(len(window), dtype=torch.float64)
    if window.start > scene.start:
        weights = torch.minimum(weights, (places + 1) / (overlap + 1))
    if window.stop < scene.stop:
        weights = torch.minimum(weights, (len(window) - places) / (overlap + 1))
    return weights


@dataclass(frozen=True, slots=True)
class _Shared:
    """One window's part in a frame of this rank's clip."""

    place: int
    """Among what the windows of all ranks say about the clip."""
    frame: int
    """Counted from the start of the clip."""
    weight: float


class OverlapFusion:
    """Predicts one clip's share of a video from windows; every rank makes one at the same place."""

    def __init__(
        self,
        model: VideoModel,
        context: ClipContext,
        scope: TemporalScope,
        window_frames: int,
        begin_window: Callable[[range], None],
    ) -> None:
        """Plan the windows.

        Args:
            model: its denoiser carries the clip-parallel modules that read ``context``.
            context: has taken up the generation's layout.
            scope: how much windows overlap.
            window_frames: latent frames that the model was trained on.
            begin_window: told which frames the model will see next.
        """
        layout = context.layout
        overlap = min(scope.overlap_frames, window_frames - 1)
        windows = windows_of(layout.scenes, window_frames, overlap)
        self._model = model
        self._context = context
        self._begin_window = begin_window
        owners = [_owner(window, layout.clips) for window in windows]
        self._own = [window for window, owner in zip(windows, owners, strict=True) if owner == layout.rank]
        needs = tuple(
            frozenset(f for window, owner in zip(windows, owners, strict=True) if owner == rank for f in window)
            for rank in range(len(layout.clips))
        )
        self._inputs = FramePlan.build(layout.clips, needs, layout.rank)
        self.frames: tuple[int, ...] = tuple(sorted({frame for window in self._own for frame in window}))
        """The frames that this rank's windows see: those whose text it needs."""
        self.computed_frames = sum(map(len, self._own))
        """Latent frames that the model sees in a step of this rank, those of two windows twice."""
        # What the windows say, one after the other, travels as if it were a video of its own.
        said = [(index, frame) for index, window in enumerate(windows) for frame in window]
        lengths = [
            sum(len(window) for window, owner in zip(windows, owners, strict=True) if owner == rank)
            for rank in range(len(layout.clips))
        ]
        wanted = tuple(
            frozenset(place for place, (_, frame) in enumerate(said) if frame in clip.frames) for clip in layout.clips
        )
        self._outputs = FramePlan.build(clips_of(lengths), wanted, layout.rank)
        scene_of = {frame: scene for scene in layout.scenes for frame in scene}
        weights = [window_weights(window, scene_of[window.start], overlap) for window in windows]
        totals: dict[int, float] = {}
        for index, frame in said:
            totals[frame] = totals.get(frame, 0.0) + float(weights[index][frame - windows[index].start])
        self._shared = [
            _Shared(
                place,
                frame - layout.clip.start,
                float(weights[index][frame - windows[index].start]) / totals[frame],
            )
            for place, (index, frame) in enumerate(said[which] for which in self._outputs.frames)
            if frame in layout.clip.frames
        ]
        self._layouts = {
            length: Layout.build(
                (Clip(0, length),),
                0,
                TemporalScope(local_window_frames=2 * length, global_frames=0),
                position_count=layout.position_count,
                joint=layout.joint,
                dtype=model.dtype,
                device=model.device,
            )
            for length in {len(window) for window in self._own}
        }

    def predict(self, latents: torch.Tensor, timestep: float, text: torch.Tensor) -> torch.Tensor:
        """Predict this rank's clip; every rank calls it at the same place.

        Args:
            latents: ``[f, C, h, w]`` of the clip; one idle frame where it is empty.
            timestep: training timestep.
            text: ``[B, n or 1, tokens, dim]``: one for each of ``frames``, or one for all of them.

        Returns:
            ``[B * f, C, h, w]``.
        """
        exchange = self._context.exchange
        clip = self._context.layout.clip
        batch = text.shape[0]
        seen = exchange.with_context(latents[None, : clip.count], self._inputs)[0]
        places = {frame: place for place, frame in enumerate(self._inputs.frames)}
        of_text = {frame: place for place, frame in enumerate(self.frames)}
        said = [self._window(seen, window, places, of_text, timestep, text) for window in self._own]
        own = torch.cat(said, dim=1) if said else latents.new_empty((batch, 0, *latents.shape[1:]))
        everything = exchange.with_context(own, self._outputs)
        exact = torch.promote_types(everything.dtype, torch.float32)
        fused = torch.zeros((batch, *latents.shape), dtype=exact, device=latents.device)
        for part in self._shared:
            fused[:, part.frame] += part.weight * everything[:, part.place].to(exact)
        return fused.flatten(0, 1)

    def _window(
        self,
        seen: torch.Tensor,
        window: range,
        places: dict[int, int],
        of_text: dict[int, int],
        timestep: float,
        text: torch.Tensor,
    ) -> torch.Tensor:
        """Run the model on one window: ``[B, n, C, h, w]``."""
        start = places[window.start]
        latents = seen[start : start + len(window)]
        if text.shape[1] > 1:
            first = of_text[window.start]
            text = text[:, first : first + len(window)]
        self._begin_window(window)
        with self._context.alone(self._layouts[len(window)], timestep):
            predicted = self._model.predict(latents.repeat(text.shape[0], 1, 1, 1), timestep, text)
            predicted = predicted.to(latents.dtype)  # a rank without windows knows no other type of what it receives
        return predicted.view(text.shape[0], len(window), *predicted.shape[1:])


def _owner(window: range, clips: tuple[Clip, ...]) -> int:
    """The rank whose clip holds a window's middle: windows in order go to ranks in order."""
    middle = window[len(window) // 2]
    return next(rank for rank, clip in enumerate(clips) if middle in clip.frames)
