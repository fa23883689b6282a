"""Installs clip parallelism on a denoiser from outside: the model's own files know nothing about ranks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.convolution import ClipConvolution
from vinf_core.context.processors import install_joint
from vinf_core.context.slicing import FrameSlices
from vinf_core.context.transformer import ClipMotionModule, ClipTransformer
from vinf_core.models.adapter import TemporalSites
from vinf_core.models.text_attention import RepeatedText, SharedTextAttention, is_plain


def install(unet: nn.Module, sites: TemporalSites, context: ClipContext, framewise: Sequence[str] = ()) -> None:
    """Replace a denoiser's temporal modules by their clip-parallel twins, in place.

    Args:
        unet: the model; afterwards a UNet takes ``[B * f, C, 1, h, w]``, one frame a batch entry, and a 3-D transformer
            ``[B, C, f, h, w]``, latent frames.
        sites: which modules are temporal.
        context: what the twins read layout and phase from.
        framewise: modules that treat every frame alone; they will run in slices of frames, and those that look at text
            take one for all frames of a clip as well.
    """
    for name in sites.convolutions:
        _replace(unet, name, ClipConvolution(unet.get_submodule(name), context))
    for name in framewise:
        module = unet.get_submodule(name)
        for block in getattr(module, "transformer_blocks", ()):
            attention = block.attn2
            plain = is_plain(attention)
            attention.set_processor(SharedTextAttention() if plain else RepeatedText(attention.processor))
        _replace(unet, name, FrameSlices(module, context.slices))
    for name in sites.transformers:
        _replace(unet, name, ClipTransformer(unet.get_submodule(name), context))
    for name in sites.motion_modules:
        _replace(unet, name, ClipMotionModule(unet.get_submodule(name), context))
    if sites.joint_attentions:
        install_joint(unet, sites.joint_attentions, sites.position_count, context)


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
