"""AnimateDiff: motion modules between the layers of a Stable Diffusion 1.5 left as it was (arXiv:2307.04725)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

from vinf_core.errors import ModelFilesError
from vinf_core.models.adapter import VideoModel
from vinf_core.models.catalogue import ModelCard
from vinf_core.models.files import CONFIG, read_config
from vinf_core.models.loading import load_component
from vinf_core.models.locate import ModelFiles
from vinf_core.models.text_to_video import TextToVideoModel, limits_at_full_size
from vinf_core.types import ModelLimits, TemporalScope

SCOPE = TemporalScope(local_window_frames=8, global_frames=8)
"""Neighbours and global frames are together as many as the frames that it was trained on; not measured."""

SCHEDULE = {"beta_schedule": "linear", "clip_sample": False, "steps_offset": 1}
"""How the schedule that the motion modules were trained with differs from Stable Diffusion's (guoyww/AnimateDiff,
configs/training/v1/training.yaml, ``noise_scheduler_kwargs``)."""

_SHOWN_CHARS = 300

_SDXL_LEVELS = (320, 640, 1280)

_UNSUPPORTED = {
    "addition_embed_type": "that is Stable Diffusion XL, which is not supported",
    "encoder_hid_dim_type": "pictures as prompts are not supported",
    "time_cond_proj_dim": "a guidance scale as an input is not supported",
    "class_embed_type": "classes are not supported",
}
"""Of a UNet's configuration; Stable Diffusion 1.5 has none of them."""


def load(files: ModelFiles, options: Mapping[str, str], *, device: torch.device, dtype: torch.dtype) -> VideoModel:
    """Load a motion adapter and the Stable Diffusion in ``files.base``, or a pipeline that holds both as one.

    Raises:
        ModelFilesError: a file is missing, damaged, of another class, or of a kind that is not supported.
    """
    config = read_config(files.denoiser, ("MotionAdapter", "UNetMotionModel"))
    is_adapter = config["_class_name"] == "MotionAdapter"
    if is_adapter:
        unet = _combine(files.denoiser, files.base / "unet", files.card)
    else:
        unet = _load_whole(files.denoiser, files.card)
    model = TextToVideoModel.from_files(files, limits(files), unet=unet, device=device, dtype=dtype)
    if is_adapter:  # else it came with its own
        model.scheduler_config |= SCHEDULE
    return model


def limits(files: ModelFiles) -> ModelLimits:
    """Size and length it was trained on; steps and guidance as in diffusers' examples."""
    return limits_at_full_size(files, step_count=25, guidance_scale=7.5, scope=SCOPE)


def _load_whole(folder: Path, card: ModelCard) -> Any:
    config = _with_defaults(UNetMotionModel, read_config(folder, ("UNetMotionModel",)))
    _check_unet(config, folder)
    _check_positions(config, folder, card)
    return load_component(UNetMotionModel, folder)


def _combine(adapter_folder: Path, unet_folder: Path, card: ModelCard) -> Any:
    """A `UNetMotionModel` made of an adapter and a Stable Diffusion; it has their weights, no copies."""
    motion = _with_defaults(MotionAdapter, read_config(adapter_folder, ("MotionAdapter",)))
    config = _with_defaults(UNet2DConditionModel, read_config(unet_folder, ("UNet2DConditionModel",)))
    if motion["conv_in_channels"]:
        raise _refusal(adapter_folder, motion, "conv_in_channels", "adapters that take pictures are not supported")
    _check_positions(motion, adapter_folder, card)
    _check_unet(config, unet_folder)
    known = inspect.signature(UNetMotionModel.__init__).parameters
    for name, default in _defaults(UNet2DConditionModel).items():
        # diffusers' converter writes null for what is off.
        is_default = config[name] == default or not (config[name] or default)
        if name not in known and name != "attention_head_dim" and not is_default:
            raise _refusal(unet_folder, config, name, f"motion modules go with {default} only")
    for name, wanted in (
        ("block_out_channels", config["block_out_channels"]),
        ("motion_norm_num_groups", config["norm_num_groups"]),
    ):
        if motion[name] != wanted:
            is_sdxl = motion[name] == _SDXL_LEVELS
            why = "Stable Diffusion XL is not supported" if is_sdxl else f"{unet_folder} wants {wanted}"
            raise _refusal(adapter_folder, motion, name, why)
    adapter, unet = load_component(MotionAdapter, adapter_folder), load_component(UNet2DConditionModel, unet_folder)
    try:
        with torch.device("meta"):  # its own weights are never wanted
            whole = UNetMotionModel.from_unet2d(unet, adapter, load_weights=False)
        whole.load_state_dict(unet.state_dict() | adapter.state_dict(), assign=True)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())[:_SHOWN_CHARS]
        raise ModelFilesError(f"model: {adapter_folder} does not fit {unet_folder}: {why}") from error
    return whole


def _check_unet(config: Mapping[str, Any], folder: Path) -> None:
    for name, why in _UNSUPPORTED.items():
        if config.get(name) is not None:
            raise _refusal(folder, config, name, why)
    if config["in_channels"] != config["out_channels"]:
        raise _refusal(folder, config, "in_channels", "denoisers that take more than noise are not supported")


def _check_positions(config: Mapping[str, Any], folder: Path, card: ModelCard) -> None:
    count = config["motion_max_seq_length"]
    if not isinstance(count, int) or count < card.frame_count:
        raise _refusal(folder, config, "motion_max_seq_length", f"wanted at least {card.frame_count}")


def _refusal(folder: Path, config: Mapping[str, Any], name: str, why: str) -> ModelFilesError:
    return ModelFilesError(f"model: {folder / CONFIG} says {name}: {config[name]}; {why}")


def _defaults(kind: Any) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _with_defaults(kind: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says, older ones leave out what was not there yet; lists as tuples, as defaults are."""
    return _defaults(kind) | {
        name: tuple(value) if isinstance(value, list) else value for name, value in config.items()
    }
