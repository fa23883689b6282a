"""EasyAnimate's VAE in pieces: the stock `AutoencoderKLMagvit`, which decodes latent frame after latent frame, chunk by
chunk.

Its convolutions are causal in time. Each keeps the last two frames that it was given, and these are all that the latent
frames before leave behind: put back, they make the next chunk what it is in one piece, to the bit. And as a convolution
reaches two frames back, what is left does not depend on latent frames further away than the sum over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKLMagvit
from diffusers.models.autoencoders.autoencoder_kl_magvit import EasyAnimateCausalConv3d, EasyAnimateUpsampler3D
from torch import nn

from vinf_core.models.temporal_decoder import ChunkGrid, HandOver

CHUNK_LATENTS = 4
"""Latent frames of a chunk that goes on from the one before: 16 pictures, so that they come early."""

PARALLEL_CHUNK_LATENTS = 8
"""The same where every chunk decodes a warm-up too: longer, so that less is decoded twice."""

WARM_UP_LATENTS = 12
"""Latent frames of that warm-up; docs/easyanimate.md shows what is off with how many."""

State = tuple[torch.Tensor, ...]
"""What every causal convolution was given last, in the order of the modules."""


class MagvitDecoder:
    """A `TemporalDecoder`: exactly the stock decoder, one chunk after the other, or all at once and nearly so."""

    def __init__(self, vae: AutoencoderKLMagvit, *, warm_up: int | None = None) -> None:
        """Wrap a VAE; nothing of one call is left in it for the next one.

        Args:
            vae: on its device, in its dtype.
            warm_up: None: each chunk goes on from the state of the one before. Else each begins so many latent frames
                earlier, 1 or more, as if the video did; with `decoder_memory` of them that is exact too.
        """
        assert warm_up is None or warm_up >= 1
        self._vae = vae
        if warm_up is None:
            memory = decoder_memory(vae.decoder)
            self.grid = ChunkGrid(CHUNK_LATENTS, hand_over=HandOver.STATE, memory=memory)
        else:
            self.grid = ChunkGrid(PARALLEL_CHUNK_LATENTS, before=warm_up)

    @torch.inference_mode()
    def decode_chunk(
        self, latents: torch.Tensor, *, chunk: range, seen: range, carried: State | None
    ) -> tuple[torch.Tensor, State]:
        """See `TemporalDecoder.decode_chunk`; latents are scaled as the denoiser has them."""
        begin = chunk.start if carried is not None else seen.start
        z = 1 / self._vae.config.scaling_factor * latents.to(self._vae.dtype)  # the stock pipeline's order of rounding
        made = []
        with causal_state(self._vae.decoder, carried):
            for index in range(begin, chunk.stop):
                # A latent frame a call, as stock: in company a convolution may round differently.
                one = z[index - seen.start].unsqueeze(1)[None]
                pictures = self._vae.decoder(self._vae.post_quant_conv(one))
                if index >= chunk.start:
                    made.append(pictures)
            left = state_of(self._vae.decoder) if self.grid.hand_over is HandOver.STATE else ()
        rgb = torch.cat(made, dim=2)[0].permute(1, 2, 3, 0)
        return rgb.float() * 0.5 + 0.5, left

    def blend(self, pictures: torch.Tensor, carried: State) -> torch.Tensor:
        """Never called: chunks are not blended."""
        raise NotImplementedError("Magvit's chunks are not blended")


@contextmanager
def causal_state(half: nn.Module, state: State | None) -> Iterator[None]:
    """Run an encoder or a decoder from a state; whatever happens, it is left without one.

    Args:
        half: of the VAE.
        state: of a call before; None: the next frame is the first one of a video.

    Raises:
        ValueError: the state is not one of this module.
    """
    clear_state(half)
    try:
        if state is not None:
            _put_state(half, state)
        yield
    finally:
        clear_state(half)


def state_of(half: nn.Module) -> State:
    """What its convolutions were given last; they replace these tensors and never change them."""
    return tuple(conv.prev_features for conv in _convolutions(half))


def clear_state(half: nn.Module) -> None:
    """Forget every frame."""
    for module in half.modules():
        if isinstance(module, EasyAnimateCausalConv3d | EasyAnimateUpsampler3D):
            module.prev_features = None


def decoder_memory(decoder: nn.Module) -> int:
    """How many latent frames before a chunk bring about the state in which the whole video before it leaves a decoder.

    Counted from the end backwards: so many frames of a convolution's input are kept, and every convolution between them
    and the latents reaches further back; where frames are doubled, half as many are behind them.
    """
    doubling = {
        id(module.conv)
        for module in decoder.modules()
        if isinstance(module, EasyAnimateUpsampler3D) and module.temporal_upsample
    }
    convolutions = _convolutions(decoder)
    rates = []  # frames a latent frame, at the input of each
    rate = 1
    for conv in convolutions:
        rates.append(rate)
        rate *= 2 if id(conv) in doubling else 1
    frames = 0
    for conv, rate in zip(reversed(convolutions), reversed(rates), strict=True):
        if id(conv) in doubling:
            frames = -(-frames // 2)
        frames += conv.temporal_padding
        if not getattr(decoder, "spatial_group_norm", True):
            frames = -(-frames // rate) * rate  # the norm before it looks at all frames of a latent frame
    return frames


def _convolutions(half: nn.Module) -> list[EasyAnimateCausalConv3d]:
    """In the order of the modules, which is that of the computation."""
    return [module for module in half.modules() if isinstance(module, EasyAnimateCausalConv3d)]


def _put_state(half: nn.Module, state: State) -> None:
    convolutions = _convolutions(half)
    if len(state) != len(convolutions):
        raise ValueError(f"carried: {len(state)} tensors are not the {len(convolutions)} of this VAE")
    for conv, features in zip(convolutions, state, strict=True):
        conv.prev_features = features.to(conv.weight)
    for module in half.modules():
        if isinstance(module, EasyAnimateUpsampler3D):
            # Only whether it is there counts: that the first frame of the video is past.
            module.prev_features = torch.empty(0)
