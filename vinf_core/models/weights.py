"""How a large denoiser's weights lie in memory: in 8 bits, and on the host until they are needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from vinf_core.errors import ConfigError

FP8_LEFT_OUT = ("embed", "norm")
"""Modules with such a part in their name keep their weights: embedders, and the modulations of norms."""


def quantise(module: nn.Module, blocks: Sequence[str], device: torch.device) -> None:
    """Keep the weights of the blocks' linear layers as float8, e4m3 with a scale a row; computing stays as it was.

    Halves what they take in half precision; SkyReels-V1's own inference code does it with the same library. Every block
    travels to ``device`` and back by itself, so that the module never has to be there in full size.

    Args:
        module: changed in place.
        blocks: names of the module lists that hold its blocks; linear layers outside of them are left alone, and so are
            those in `FP8_LEFT_OUT`.
        device: where the scales are found and the weights are rounded; fast on a GPU.

    Raises:
        ConfigError: torchao, which does it, is not installed.
    """
    try:
        from torchao.quantization import Float8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ConfigError("model option: weights=fp8 needs torchao: pip install 'vinf[fp8]'") from error
    # Compiling is none of our business, and neither are its settings.
    config = Float8WeightOnlyConfig(set_inductor_config=False)
    for name in blocks:
        for block in module.get_submodule(name).children():
            home = next(block.parameters()).device
            quantize_(block.to(device), config, is_quantised)
            block.to(home)


def is_quantised(module: nn.Module, name: str) -> bool:
    """Tell whether `quantise` keeps a module of the blocks in 8 bits, by what it is and what it is called there."""
    parts = re.split(r"[._]", name)
    return isinstance(module, nn.Linear) and not any(part.startswith(FP8_LEFT_OUT) for part in parts)


def offload(module: Any, device: torch.device) -> None:
    """Keep a module's weights on the host and bring them to the device block by block while it computes.

    On CUDA the next block travels while one computes. The module must be on the host; its inputs are on ``device``.

    Args:
        module: gets hooks; those of its attentions' processors and its forward stay what they are.
        device: where it computes.
    """
    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
        non_blocking=device.type == "cuda",
    )
