"""The adapter of `temporal_card.CARD`: a tiny denoiser, and a decoder that hands a state from chunk to chunk.

Text is encoded by one rank for all. A file ``die-CHUNK`` in the folder of the model kills the rank that is about to
decode that chunk, once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import torch

from tests.support.temporal import FRAMES_PER_LATENT, Carried, StateDecoder
from vinf_core.models.adapter import VideoModel
from vinf_core.models.locate import ModelFiles
from vinf_core.models.preview_map import PreviewMap
from vinf_core.models.text_to_video import TextToVideoModel
from vinf_core.types import ModelLimits, Solver, TemporalScope


class MortalDecoder(StateDecoder):
    """Dies when it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def decode_chunk(
        self, latents: torch.Tensor, *, chunk: range, seen: range, carried: Carried | None
    ) -> tuple[torch.Tensor, Carried]:
        order = self._folder / f"die-{chunk.start // self.grid.latents}"
        if order.exists():
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode_chunk(latents, chunk=chunk, seen=seen, carried=carried)


class Tides(TextToVideoModel):
    """One text for the whole video, encoded on rank 0."""

    text_on_one_rank = True


def load(files: ModelFiles, options: Mapping[str, str], *, device: torch.device, dtype: torch.dtype) -> VideoModel:
    """Load it from a folder that `tests.support.published.save_modelscope` has written."""
    preview_map = PreviewMap(torch.eye(3, 4), torch.zeros(3, 4), torch.full((3,), 0.5))
    model = Tides.from_files(files, limits(files), preview_map=preview_map, device=device, dtype=dtype)
    model.temporal_decoder = MortalDecoder(files.base)
    return model


def limits(files: ModelFiles) -> ModelLimits:
    """What it takes."""
    return ModelLimits(
        name=files.card.name,
        default_width=files.card.width,
        default_height=files.card.height,
        min_width=32,
        max_width=128,
        min_height=32,
        max_height=128,
        size_multiple=16,
        default_frame_count=13,
        max_frame_count=65_536,
        trained_frame_count=files.card.frame_count,
        default_frame_rate=(files.card.frame_rate, 1),
        default_step_count=4,
        default_guidance_scale=3.0,
        default_solver=Solver.DDIM,
        default_scope=TemporalScope(local_window_frames=8, global_frames=8),
        max_prompt_chars=200,
        frames_per_latent=FRAMES_PER_LATENT,
        solvers=(Solver.DDIM,),
        takes_story=False,
    )
