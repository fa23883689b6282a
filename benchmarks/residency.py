"""How much of a large model lies on a GPU, where its linear layers are kept in 8 bits or its blocks on the host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from vinf_core.models.weights import is_quantised

_SCALE_BYTES = 4
"""Of a row."""

_GROUPS = 2
"""Blocks on a GPU: the one that computes and the next one, on its way (diffusers' group offloading with a stream)."""


@dataclass(frozen=True, slots=True)
class Residency:
    """What lies on a GPU, in bytes, by what is being done."""

    text: int
    """Texts are encoded, by the rank that does it."""
    denoise: int
    decode: int


def residency(model: Any, blocks: Sequence[str], *, fp8: bool, offload: bool) -> Residency:
    """Count weights and buffers.

    Args:
        model: an adapter whose modules are the denoiser, a ``_vae`` and the text encoders; on any device.
        blocks: names of the denoiser's lists of blocks.
        fp8: as `vinf_core.models.weights.quantise`: linear layers of the blocks of denoiser and language model in 8
            bits. What is multiplied is made whole again in the model's dtype, a layer at a time.
        offload: as `vinf_core.models.weights.offload`; the text encoders visit the GPU for each text.
    """
    denoiser, vae = model.unet, _bytes([model._vae])
    texts = [
        part for part in vars(model).values() if isinstance(part, nn.Module) and part not in (denoiser, model._vae)
    ]
    lists = [denoiser.get_submodule(name) for name in blocks]
    saved, largest = _saved(lists) if fp8 else (0, 0)
    layers = [module for encoder in texts for name, module in encoder.named_modules() if name.endswith("layers")]
    text_saved, text_largest = _saved([each for each in layers if _is_language(each)]) if fp8 else (0, 0)
    text = _bytes(texts) - text_saved
    whole = _bytes([denoiser]) - saved
    if not offload:
        together = whole + vae + text
        return Residency(together + text_largest, together + largest, together)
    each = [_bytes([block]) - (_saved([[block]])[0] if fp8 else 0) for blocks_ in lists for block in blocks_]
    stays = whole - sum(each)
    return Residency(text + text_largest + vae, stays + min(sum(each), _GROUPS * max(each)) + largest + vae, vae)


def _is_language(layers: nn.Module) -> bool:
    """Whether these are the layers of a language model, and not those of an image or CLIP encoder."""
    return any("self_attn.q_proj" in name for name, _ in layers.named_modules()) and any(
        "gate_proj" in name for name, _ in layers.named_modules()
    )


def _bytes(modules: Iterable[nn.Module]) -> int:
    return sum(tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers()))


def _saved(lists: Iterable[Iterable[nn.Module]]) -> tuple[int, int]:
    """Bytes that 8 bits save, and those of the largest layer made whole again."""
    saved = largest = 0
    for blocks in lists:
        for block in blocks:
            for name, module in block.named_modules():
                if isinstance(module, nn.Linear) and is_quantised(module, name):
                    weight = module.weight
                    saved += weight.nbytes - weight.numel() - _SCALE_BYTES * weight.shape[0]
                    largest = max(largest, weight.nbytes)
    return saved, largest
