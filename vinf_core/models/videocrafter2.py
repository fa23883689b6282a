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
from vinf_core.models.text_to_video import TextToVideoModel, limits_at_full_size
from vinf_core.types import ModelLimits

PUBLISHED_CLASS = "UNet3DVideoCrafterConditionModel"


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
    """Steps and guidance are those of Video-Infinity's examples."""
    return limits_at_full_size(files, step_count=30, guidance_scale=12.0)
