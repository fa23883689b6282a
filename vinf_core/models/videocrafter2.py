"""VideoCrafter2 in its published diffusers layout: the UNet of ModelScope that also knows the frame rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps

from vinf_core.models.adapter import VideoModel
from vinf_core.models.latent_scale import LatentScale
from vinf_core.models.loading import load_component
from vinf_core.models.locate import ModelFiles
from vinf_core.models.text_to_video import TextToVideoModel
from vinf_core.types import ModelLimits, Solver, TemporalScope

PUBLISHED_CLASS = "UNet3DVideoCrafterConditionModel"

SCOPE = TemporalScope(local_window_frames=16, global_frames=16, phase_timestep=800, phase_bias=10.0)
"""Video-Infinity, section 5.1."""


class VideoCrafterUNet(UNet3DConditionModel):
    """`UNet3DConditionModel` with the embedding of the frame rate added to that of the timestep.

    Its parameters carry the names of the published files (``fps_embedding``).
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        down_block_types: tuple[str, ...] = (*("CrossAttnDownBlock3D",) * 3, "DownBlock3D"),
        up_block_types: tuple[str, ...] = ("UpBlock3D", *("CrossAttnUpBlock3D",) * 3),
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1,
        act_fn: str = "silu",
        norm_num_groups: int | None = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 1024,
        attention_head_dim: int = 64,
        num_attention_heads: int | None = None,
        fps_cond: bool = True,
    ) -> None:
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            downsample_padding=downsample_padding,
            mid_block_scale_factor=mid_block_scale_factor,
            act_fn=act_fn,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=attention_head_dim,
            num_attention_heads=num_attention_heads,
        )
        width = block_out_channels[0]
        self.fps_proj = Timesteps(width, True, 0)
        self.fps_embedding = TimestepEmbedding(width, 4 * width, act_fn=act_fn)
        self._frame_rate = 0.0
        self.time_embedding.register_forward_hook(self._add_frame_rate)

    def set_frame_rate(self, frame_rate: float) -> None:
        """Condition what follows on a frame rate, in frames a second."""
        self._frame_rate = frame_rate

    def _add_frame_rate(self, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        rate = torch.full((1,), self._frame_rate, device=output.device)
        embedded: torch.Tensor = self.fps_embedding(self.fps_proj(rate).to(output.dtype))
        return output + embedded


def load(files: ModelFiles, options: Mapping[str, str], *, device: torch.device, dtype: torch.dtype) -> VideoModel:
    """Load it from a folder; see `TextToVideoModel.from_files`."""
    return TextToVideoModel.from_files(
        files,
        limits(files),
        unet=load_component(VideoCrafterUNet, files.denoiser, class_names=(PUBLISHED_CLASS,)),
        latent_scale=LatentScale() if options["latent-scale"] == "on" else None,
        device=device,
        dtype=dtype,
    )


def limits(files: ModelFiles) -> ModelLimits:
    """Size and length it was trained on; steps, guidance and scope of Video-Infinity's examples."""
    return ModelLimits(
        name=files.card.name,
        default_width=files.card.width,
        default_height=files.card.height,
        min_width=64,
        max_width=1024,
        min_height=64,
        max_height=1024,
        size_multiple=64,
        default_frame_count=64,
        max_frame_count=65_536,
        trained_frame_count=files.card.frame_count,
        default_frame_rate=(files.card.frame_rate, 1),
        default_step_count=30,
        default_guidance_scale=12.0,
        default_solver=Solver.DPM_SOLVER_PP_2M,
        default_scope=SCOPE,
        max_prompt_chars=2000,
    )
