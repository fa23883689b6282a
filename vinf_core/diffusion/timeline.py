"""The text of every frame: which prompts a clip sees, and how much of each.

Cross-attention works frame by frame, so a video may change its prompt at any frame, in the middle of a clip as well: a
frame's text depends on its index in the video alone, never on the rank that owns it or on the frames beside it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vinf_core.types import PromptSegment


@dataclass(frozen=True, slots=True)
class Blend:
    """One frame's text, as a mix of two prompts; without a transition both are the same one."""

    before: int
    """Index of the prompt that a transition leaves."""
    after: int
    """Index of the prompt that it moves to."""
    weight: float
    """Share of ``after``, in (0, 1]."""


@dataclass(frozen=True, slots=True)
class ClipTimeline:
    """The prompts that some frames of a video see."""

    prompts: tuple[str, ...]
    """Each once, in the order in which the frames meet them: what has to be encoded."""
    blends: tuple[Blend, ...]
    """One a frame, by index into ``prompts``."""

    @classmethod
    def build(cls, prompt: str, segments: Sequence[PromptSegment], frames: Sequence[int]) -> ClipTimeline:
        """Look the frames up on the timeline.

        In a transition of k frames that starts at frame s, frame i takes ``(i - s + 1) / (k + 1)`` of the new prompt:
        the first frame has left the old prompt already, and frame ``s + k`` is the first one with the new prompt alone.

        Args:
            prompt: holds from frame 0 until the first segment starts.
            segments: by ascending start frame, no transition reaching into the next (`GenerationSpec` checks it).
            frames: global frame indices, in any order; at least one.
        """
        starts = [segment.start_frame for segment in segments]
        texts = [prompt, *(segment.prompt for segment in segments)]
        indices: dict[str, int] = {}
        blends = []
        for frame in frames:
            place = bisect_right(starts, frame)
            weight = 1.0
            if place and texts[place - 1] != texts[place]:
                segment = segments[place - 1]
                weight = min(1.0, (frame - segment.start_frame + 1) / (segment.transition_frames + 1))
            after = texts[place]
            before = texts[place - 1] if weight < 1 else after
            blends.append(
                Blend(
                    before=indices.setdefault(before, len(indices)),
                    after=indices.setdefault(after, len(indices)),
                    weight=weight,
                )
            )
        return cls(prompts=tuple(indices), blends=tuple(blends))

    def embed(self, embeddings: Sequence[torch.Tensor], negative: torch.Tensor | None) -> torch.Tensor:
        """Build the texts of the frames from the prompts' embeddings.

        Args:
            embeddings: one ``[tokens, dim]`` a prompt, in the order of ``prompts``.
            negative: ``[tokens, dim]`` of the negative prompt, which holds for every frame; None without guidance.

        Returns:
            ``[B, f, tokens, dim]`` with f frames, or f = 1 when all of them see the same; B = 2 (negative prompt first)
            with guidance, else 1. In the dtype of the embeddings, on their device.
        """
        blends = self.blends if len(set(self.blends)) > 1 else self.blends[:1]
        texts = torch.stack([_mix(embeddings[blend.before], embeddings[blend.after], blend.weight) for blend in blends])
        if negative is None:
            return texts[None]
        return torch.stack([negative.expand_as(texts), texts])


def _mix(before: torch.Tensor, after: torch.Tensor, weight: float) -> torch.Tensor:
    """Interpolate linearly, in float32 or better; a weight of 1 gives ``after`` itself, to the bit."""
    if weight == 1:
        return after
    exact = torch.promote_types(after.dtype, torch.float32)
    # Two products and a sum, not `torch.lerp`: each rounds by itself, so no fused kernel decides about the last bit.
    mixed: torch.Tensor = before.to(exact) * (1 - weight) + after.to(exact) * weight
    return mixed.to(after.dtype)
