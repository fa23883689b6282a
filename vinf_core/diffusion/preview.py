"""What a few frames of a rank's clip look like after a step, without the decoder.

The solver knows at each step what it takes the clean latents to be; a linear map of the model's turns their positions
into pixels. A preview is a courtesy: none is waited for, and none is made while the one before is on its way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from vinf_core.diffusion.host_copy import begin_copies
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.preview_map import PreviewMap
from vinf_core.types import Clip

PREVIEW_FRAMES = 3
"""Frames of a clip that are shown: the first, the one in the middle, the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """Some frames as they are after a step; the pictures are on the CPU once `wait` has returned."""

    completed_steps: int
    frames: tuple[int, ...]
    """Their indices in the video."""
    pictures: torch.Tensor
    """``[n, h, w, 3]``, RGB, uint8: one pixel for each position of the latent."""
    copied: torch.cuda.Event | None = None
    """Recorded behind the copy from a GPU; None when there was nothing to copy."""

    def wait(self) -> None:
        """Wait until the pictures have arrived from the GPU."""
        if self.copied is not None:
            self.copied.synchronize()


class PreviewSink(Protocol):
    """Takes the previews of a rank's clip of one generation, from the thread that runs the engine; never blocks."""

    @property
    def has_room(self) -> bool:
        """Whether `send` can be called: the one before is on its way no more."""

    def send(self, preview: Preview) -> None:
        """Send a preview off, for which there is room; whoever reads it waits for it first."""


class PreviewsInFrames:
    """Hands previews of latent frames on as those of the first frame of each."""

    def __init__(self, sink: PreviewSink, frame_grid: FrameGrid) -> None:
        self._sink = sink
        self._frame_grid = frame_grid

    @property
    def has_room(self) -> bool:
        """See `PreviewSink`."""
        return self._sink.has_room

    def send(self, preview: Preview) -> None:
        """See `PreviewSink`; its frames are latent frames."""
        frames = (self._frame_grid.frames_of(range(latent, latent + 1))[0] for latent in preview.frames)
        self._sink.send(replace(preview, frames=tuple(frames)))


def preview_frames(clip: Clip) -> tuple[int, ...]:
    """Which frames of a clip are shown: up to `PREVIEW_FRAMES`, spread evenly, its first and its last among them."""
    count = min(PREVIEW_FRAMES, clip.count)
    return tuple(clip.start + place * (clip.count - 1) // max(1, count - 1) for place in range(count))


def clean_estimate(scheduler: Any, step: Any) -> torch.Tensor:
    """Tell what the solver takes the clean latents to be: that is known after each step, and costs nothing.

    Args:
        scheduler: made by `make_scheduler`.
        step: what its ``step`` has just returned.
    """
    # DDIM returns it; DPM-Solver++ remembers it, being a solver in terms of it.
    estimate: torch.Tensor = (
        step.pred_original_sample if hasattr(step, "pred_original_sample") else scheduler.model_outputs[-1]
    )
    return estimate


class Previewer:
    """Makes one generation's previews on one rank."""

    def __init__(self, sink: PreviewSink, preview_map: PreviewMap, clip: Clip, *, interval: int) -> None:
        """Make one.

        Args:
            sink: where they go.
            preview_map: the model's.
            clip: this rank's; not empty.
            interval: steps from one preview to the next, at least 1.
        """
        self._sink = sink
        self._map = preview_map
        self._clip = clip
        self._frames = preview_frames(clip)
        self._interval = interval

    def step_ended(self, completed_steps: int, clean: torch.Tensor) -> None:
        """Make a preview and send it off, if one is due and there is room; on a GPU nothing is waited for.

        Args:
            completed_steps: steps done.
            clean: `clean_estimate` of the clip, ``[f, C, h, w]``.
        """
        if completed_steps % self._interval or not self._sink.has_room:
            return
        # Stacked views: indices in a tensor would have to be copied to a GPU first.
        shown = torch.stack([clean[frame - self._clip.start] for frame in self._frames])
        (pictures,), copied = begin_copies([self._map.pictures(shown)])
        self._sink.send(Preview(completed_steps=completed_steps, frames=self._frames, pictures=pictures, copied=copied))
